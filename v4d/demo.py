"""The demo: V4D and TSN with one budget on videos whose classes differ only in the order of their sub-actions."""

from __future__ import annotations

import math

from rich.table import Table

from v4d.config import Recipe
from v4d.evaluation.evaluate import Accuracy
from v4d.recipes.files import load_recipe

VIDEOS_PER_CLASS = {"train": 100, "val": 50}
UNITS_INFER = 10


def rivals(seed: int) -> dict[str, Recipe]:
    """The recipes to compare, by name: the same in all but the 4D blocks, which TSN does without."""
    settings = (f"train.seed={seed}",)
    return {"V4D": load_recipe("demo", settings), "TSN": load_recipe("demo", (*settings, "model.blocks_4d=[]"))}


def standard_error(accuracy: Accuracy) -> float:
    """Standard error of a guess's top-1 over as many videos: sqrt(chance · (1 - chance) / videos)."""
    return math.sqrt(accuracy.chance * (1 - accuracy.chance) / accuracy.videos)


def comparison(results: dict[str, Accuracy]) -> Table:
    """The demo's table: top-1 of each network, and how far from chance it is in standard errors of a guess."""
    table = Table("network", "held-out videos", "top-1", "above chance", title="Which of six orders? Algorithm 1")
    for name, accuracy in results.items():
        errors = (accuracy.top1 - accuracy.chance) / standard_error(accuracy)
        table.add_row(name, str(accuracy.videos), f"{accuracy.top1:.1%}", f"{errors:+.1f} standard errors")
    guess = next(iter(results.values()))
    table.add_row("chance", "", f"{guess.chance:.1%}", f"± {standard_error(guess):.1%} standard error")
    return table
