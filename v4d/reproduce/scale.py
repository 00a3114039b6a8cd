"""The small scale: how each recipe is shrunk, so that a table's rows are trained on a CPU in minutes.

What makes a row what it is stays: number of units, frames of a unit, 4D blocks, their kernels and places, stages of
training, protocol of test. What is shrunk is shrunk for all rows alike.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from preprocess.index import Dataset
from v4d.config import Recipe
from v4d.recipes.files import load_recipe

# Of each of the demo's six classes.
VIDEOS_PER_CLASS = {"train": 60, "val": 25}
# A video of the small dataset has 128 frames; one of Kinetics about 300 (section 4.1).
_CLASSES = 6
# So many for 4D blocks that begin at 0: after 8 epochs they have hardly left it, after 24 they tell the classes apart.
_EPOCHS, _EPOCHS_FROM_ZERO = 8, 24
_FRAMES, _FRAMES_IN_KINETICS = 128, 300


@dataclass(frozen=True)
class Scale:
    """How rows are trained: ``name`` says it, ``seeds`` are how many by default, ``batch`` that of test."""

    name: str
    seeds: int
    batch: int

    def settings(self, recipe: Recipe) -> tuple[str, ...]:
        """What is set over a recipe, of the form ``section.key=value``."""
        return () if self.name == "full" else _small(recipe)


SCALES = {"full": Scale("full", seeds=3, batch=4), "small": Scale("small", seeds=1, batch=10)}


def small_dataset(root: Path) -> Dataset:
    """What the dataset of the small scale will be, before it is made."""
    names = tuple(f"class {number}" for number in range(_CLASSES))
    splits = {split: {"videos": _CLASSES * videos} for split, videos in VIDEOS_PER_CLASS.items()}
    return Dataset(root, "ordered-actions", names, "mjpeg", (48, 48), splits, {}, {}, "")


def _small(recipe: Recipe) -> tuple[str, ...]:
    return (
        "data.train_crop=48",
        "data.test_crop=48",
        "data.scales=[1.0, 0.875]",
        # A unit is as large a part of a video as in the paper.
        f"data.stride={max(1, round(recipe.data.stride * _FRAMES / _FRAMES_IN_KINETICS))}",
        # A bottleneck's layers end in four times as many channels.
        f"model.base_width={16 if recipe.model.depth == 18 else 8}",
        "model.dropout=0.0",
        # ImageNet's networks are of another width. From random weights 4D blocks have to begin as something.
        "train.init=",
        *(() if recipe.train.starts_from else ("model.norm_init_4d=1.0",)),
        # Those of the packaged recipe "demo".
        "optim.lr=0.1",
        "optim.nesterov=true",
        "optim.weight_decay=5e-4",
        f"optim.epochs={_EPOCHS_FROM_ZERO if _begins_at_zero(recipe) else _EPOCHS}",
        "optim.schedule=cosine",
        "optim.warmup_epochs=2.0",
        "train.global_batch=16",
        "train.precision=fp32",
        "train.autotune=false",
        "train.compile=false",
        "train.validate_every=0",
    )


def _begins_at_zero(recipe: Recipe) -> bool:
    """Whether its 4D blocks were held at 0 by the training that it starts from."""
    return bool(recipe.train.starts_from and load_recipe(recipe.train.starts_from).optim.frozen)
