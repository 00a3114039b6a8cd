"""Checkpoints: everything a run needs to go on, or a model to be used, in one file that appears whole or not at all."""

from __future__ import annotations

import pickle
import platform
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from preprocess.durable_files import replace_atomically
from preprocess.errors import DataError, UsageError
from preprocess.index import VERSION
from v4d.config import Recipe
from v4d.models.network import V4D

LAST = "last.pt"


@dataclass(frozen=True)
class Checkpoint:
    """A run after ``step`` steps: weights, the states of optimizer and loader, recipe, and the dataset.

    ``model`` are the weights to use; ``extras`` is what else training goes on from (see v4d.step.Learner): where
    ``model`` are averages, the weights that are trained among it.
    """

    step: int
    recipe: Recipe
    classes: tuple[str, ...]
    dataset: str
    fingerprint: str
    model: dict[str, Any]
    optimizer: dict[str, Any]
    loader: dict[str, Any]
    extras: dict[str, Any] = field(default_factory=dict)


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint; ``path`` holds the old one or the new one, never a part. Raises OSError."""
    content = {**vars(checkpoint), "recipe": checkpoint.recipe.model_dump_json(), "classes": list(checkpoint.classes)}
    content["versions"] = {"v4d": VERSION, "torch": str(torch.__version__), "python": platform.python_version()}
    with replace_atomically(path) as temporary:
        torch.save(content, temporary)


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint to the CPU. Raises DataError if it is missing, damaged or no checkpoint of v4d."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        content.pop("versions")
        content["recipe"] = Recipe.model_validate_json(content["recipe"])
        return Checkpoint(**{**content, "classes": tuple(content["classes"])})
    except FileNotFoundError:
        raise DataError(f"there is no checkpoint {path}: train first, or name the folder of a run") from None
    except (RuntimeError, pickle.UnpicklingError, EOFError, OSError) as error:
        raise DataError(f"{path} is damaged or no checkpoint: {_first_line(error)}") from None
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise DataError(f"{path} is no checkpoint of this version of v4d: {_first_line(error)}") from None


def load_weights(model: V4D, checkpoint: Checkpoint, path: Path) -> None:
    """Put a checkpoint's weights into ``model``. Raises UsageError, naming the first difference, if they do not fit."""
    expected = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    found = {name: tuple(value.shape) for name, value in checkpoint.model.items()}
    for name in sorted(expected.keys() | found.keys()):
        if expected.get(name) != found.get(name):
            there, here = found.get(name, "missing"), expected.get(name, "no such weight")
            raise UsageError(f"{path} is of another architecture: {name} is {there} there and {here} in this model")
    model.load_state_dict(checkpoint.model)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
