"""Which recipe and which run the commands use where none is named."""

from __future__ import annotations

from pathlib import Path

from preprocess.errors import UsageError
from preprocess.index import Dataset
from v4d.checkpoint import LAST, load_checkpoint
from v4d.config import Recipe
from v4d.recipes.files import packaged_recipes

RUNS = Path("runs")


def choose_recipe(dataset: Dataset, device: str) -> str:
    """The packaged recipe that fits a dataset on a device, "cpu" or "cuda"; one made for its kind goes first.

    Raises UsageError, with the candidates, where not exactly one does.
    """
    known = packaged_recipes().values()
    fitting = [recipe for recipe in known if device in recipe.fits.devices and not recipe.fits.by_name]
    for_kind = [recipe.name for recipe in fitting if dataset.kind in recipe.fits.kinds]
    names = for_kind or [recipe.name for recipe in fitting if not recipe.fits.kinds]
    if len(names) != 1:
        raise UsageError(f"{len(names)} recipes fit {dataset.root}, choose one with --recipe: {', '.join(names)}")
    return names[0]


def choose_run_to_train(dataset: Dataset, recipe: Recipe) -> Path:
    """The folder of the run that this dataset and recipe began, else of a new one beside those of others."""
    name = f"{dataset.name}-{recipe.name}"
    number = 1
    while (run := RUNS / (name if number == 1 else f"{name}-{number}")).exists():
        if not (run / LAST).exists():
            return run
        checkpoint = load_checkpoint(run / LAST)
        if checkpoint.recipe == recipe and checkpoint.fingerprint == dataset.fingerprint:
            return run
        number += 1
    return run


def choose_run() -> Path:
    """The newest run under runs/ that has a checkpoint. Raises UsageError if there is none."""
    found = sorted(RUNS.glob(f"*/{LAST}"), key=lambda path: path.stat().st_mtime)
    if not found:
        raise UsageError(f"there is no run with a checkpoint under {RUNS}/: run v4d train, or name a run")
    return found[-1].parent
