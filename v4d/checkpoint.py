"""Checkpoints: everything a run needs to go on, and its network, in a folder that appears whole or not at all.

RUN/checkpoints/step-00000200/ has weights.safetensors, a weights file as any other, and state.pt, the rest. The last
one is that of the most steps, the best one that of the log's best validation: nothing else says so, so that nothing can
contradict it.
"""

from __future__ import annotations

import io
import pickle
import platform
import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from preprocess.durable_files import remove_folder, replace_atomically
from preprocess.errors import DataError, UsageError
from preprocess.index import VERSION
from v4d.config import Recipe
from v4d.models.network import V4D
from v4d.training_log import best_step
from v4d.weights.weights_file import WeightsInfo, read_weights, write_weights

WEIGHTS, STATE = "weights.safetensors", "state.pt"
CHECKPOINTS = "checkpoints"
# Of a v4d that had one file, which also holds the weights.
_ONE_FILE = "last.pt"
_NAMES = ("last", "best")


def versions() -> dict[str, str]:
    """What a run and its checkpoints were made by."""
    return {"v4d": VERSION, "torch": str(torch.__version__), "python": platform.python_version()}


@dataclass(frozen=True)
class Checkpoint:
    """A run after ``step`` steps: weights, the states of optimizer and loader, recipe, and the dataset.

    ``model`` are the weights to use; ``extras`` is what else training goes on from (see v4d.step.Learner): where
    ``model`` are averages, the weights that are trained among it. Learning rate and random numbers are functions of
    the step and the recipe, and have no state.
    """

    step: int
    recipe: Recipe
    classes: tuple[str, ...]
    dataset: str
    fingerprint: str
    model: dict[str, Tensor]
    optimizer: dict[str, Any]
    loader: dict[str, Any]
    extras: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=versions)

    @property
    def weights_info(self) -> WeightsInfo:
        """What a weights file of its network says."""
        recipe = self.recipe
        return WeightsInfo(
            model=recipe.model,
            num_classes=len(self.classes),
            classes=self.classes,
            data=recipe.data,
            loss=recipe.train.loss,
            source=f"recipe {recipe.name}, step {self.step}",
        )

    def on_cpu(self) -> Checkpoint:
        """A copy that training does not change, in memory that is no GPU's."""
        return replace(
            self, **{name: _copied(getattr(self, name)) for name in ("model", "optimizer", "loader", "extras")}
        )


def _copied(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, dict):
        return {key: _copied(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(map(_copied, value))
    return value


def save_checkpoint(run: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint into the folder of a run. Raises OSError, and then leaves nothing."""
    state = {name: value for name, value in vars(checkpoint).items() if name != "model"}
    state |= {"recipe": checkpoint.recipe.model_dump_json(), "classes": list(checkpoint.classes)}
    # Writing to a file of its own, torch takes a full disk for a fault of its own.
    content = io.BytesIO()
    torch.save(state, content)
    with replace_atomically(run / CHECKPOINTS / f"step-{checkpoint.step:08d}") as folder:
        folder.mkdir()
        write_weights(folder / WEIGHTS, checkpoint.model, checkpoint.weights_info)
        with replace_atomically(folder / STATE) as temporary:
            temporary.write_bytes(content.getbuffer())


def checkpoints_in(run: Path) -> dict[int, Path]:
    """The checkpoints of a run, by step, the last one last."""
    paths = run.glob(f"{CHECKPOINTS}/*")
    return dict(sorted((int(name[1]), path) for path in paths if (name := re.fullmatch(r"step-(\d+)", path.name))))


def remove_checkpoints(run: Path, kept_every: int) -> None:
    """Remove all checkpoints but the last, the best, and those of each multiple of ``kept_every`` steps, if not 0.

    The best is that of those that are there: a full disk may have kept a better one from being written.
    """
    found = checkpoints_in(run)
    best = best_step(run, found)
    for step, path in list(found.items())[:-1]:
        if step != best and not (kept_every and step % kept_every == 0):
            remove_folder(path)


def last_checkpoint(run: Path) -> Path | None:
    """The last checkpoint of a run, if it has one."""
    found = checkpoints_in(run)
    if found:
        return found[max(found)]
    return run / _ONE_FILE if (run / _ONE_FILE).is_file() else None


def names_checkpoint(path: Path) -> bool:
    """Whether ``path`` is for ``find_checkpoint``, and not a file of weights alone."""
    return path.is_dir() or path.name in (*_NAMES, _ONE_FILE)


def find_checkpoint(path: Path) -> Path:
    """The checkpoint that ``path`` names: itself, the last of a run's folder, or RUN/last or RUN/best.

    Raises DataError if there is none.
    """
    if path.is_file() or (path / STATE).is_file():
        return path
    run = path.parent if path.name in _NAMES and not path.exists() else path
    if run is not path and path.name == "best":
        found = checkpoints_in(run)
        best = best_step(run, found)
        if best is None:
            raise DataError(f"{run} has no checkpoint of a best validation: name {run} itself for its last one")
        return found[best]
    last = last_checkpoint(run)
    if last is None:
        raise DataError(f"there is no checkpoint in {path}: train first, or name the folder of a run")
    return last


def load_checkpoint(path: Path) -> Checkpoint:
    """As ``find_and_load``, the checkpoint alone."""
    return find_and_load(path)[1]


def find_and_load(path: Path) -> tuple[Path, Checkpoint]:
    """Read a checkpoint, named as for ``find_checkpoint``, to the CPU, and say which one it was.

    The run may be in training: where what ``path`` named was removed while it was read, what ``path`` names now is
    read. Raises DataError if it is missing, damaged or no checkpoint of v4d.
    """
    while True:
        found = find_checkpoint(path)
        before = _identity(found)
        try:
            return found, _read(found)
        except DataError:
            # What is still there, or a link to nowhere, is what the run has to offer.
            if _identity(found) == before and find_checkpoint(path) == found:
                raise


def _identity(path: Path) -> tuple[int, int] | None:
    """What tells a checkpoint from another that took its place; None if there is none."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return status.st_ino, status.st_mtime_ns


def _read(path: Path) -> Checkpoint:
    in_one_file = path.is_file()
    state = path if in_one_file else path / STATE
    try:
        content = torch.load(state, map_location="cpu", weights_only=True)
        content["recipe"] = Recipe.model_validate_json(content["recipe"])
        content["classes"] = tuple(content["classes"])
        if not in_one_file:
            content["model"] = read_weights(path / WEIGHTS)[1]
        return Checkpoint(**content)
    except pickle.UnpicklingError:
        # Torch's own message advises to run what the file says.
        raise DataError(f"{state} is damaged or no checkpoint of v4d") from None
    except (RuntimeError, EOFError, OSError) as error:
        raise DataError(f"{state} is damaged or no checkpoint: {_first_line(error)}") from None
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise DataError(f"{state} is no checkpoint of this version of v4d: {_first_line(error)}") from None


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
