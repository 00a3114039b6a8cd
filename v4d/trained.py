"""Trained networks, from a run's checkpoint or a weights file, with what they are to be fed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from preprocess.errors import DataError, UsageError
from preprocess.index import Dataset, read_dataset
from v4d.checkpoint import find_checkpoint, load_checkpoint, load_weights
from v4d.config import Recipe
from v4d.models.network import V4D
from v4d.weights.weights_file import SUFFIX, load_pretrained, read_weights_info


@dataclass(frozen=True)
class Trained:
    """A trained network from the file ``path``; ``about`` says in JSON's types what it is and where it comes from.

    ``classes`` is empty where nobody knows their names. ``dataset`` is where the network was trained, with its
    ``fingerprint`` then, where that is known. What a weights file does not say of ``recipe`` is the default.
    """

    path: Path
    model: V4D
    classes: tuple[str, ...]
    recipe: Recipe
    about: dict[str, Any]
    dataset: Path | None = None
    fingerprint: str = ""

    def read_dataset(self, root: Path | None, console: Console) -> Dataset:
        """The dataset at ``root``, by default the one that the network was trained on.

        Raises UsageError if neither is known; DataError if it is gone, or its classes are not the network's.
        """
        if root is None and self.dataset is None:
            raise UsageError(f"{self.path} says nothing of a dataset: name one with --data")
        if root is None and self.dataset and not self.dataset.exists():
            raise DataError(f"{self.dataset}, which {self.path} was trained on, is gone: name the dataset with --data")
        dataset = read_dataset(root or self.dataset or Path())
        if root is None and dataset.fingerprint != self.fingerprint:
            console.print(f"note: {self.dataset} has been made anew since {self.path} was trained on it")
        if difference := self._difference(dataset):
            raise DataError(f"{dataset.root} has other classes than {self.path}: {difference}")
        if not self.classes:
            console.print(f"note: {self.path} names no classes: they are taken for the dataset's, in its order")
        return dataset

    def _difference(self, dataset: Dataset) -> str:
        if len(dataset.classes) != self.model.num_classes:
            return f"{len(dataset.classes)} there, {self.model.num_classes} here"
        for i, (there, here) in enumerate(zip(dataset.classes, self.classes, strict=False)):
            if there != here:
                return f"class {i} is '{there}' there, '{here}' here"
        return ""


def load_trained(run: Path) -> Trained:
    """The network of a weights file, or of a run: see ``load_run``; on the CPU.

    Raises DataError if it is missing, damaged or no such thing.
    """
    return _of_weights_file(run) if run.suffix == SUFFIX and not run.is_dir() else load_run(run)


def load_run(run: Path) -> Trained:
    """The network of a checkpoint, named as for ``find_checkpoint``, on the CPU; ``about`` has its ``step``.

    Raises DataError if it is missing, damaged or no checkpoint.
    """
    path = find_checkpoint(run)
    checkpoint = load_checkpoint(path)
    model = V4D(checkpoint.recipe.model, len(checkpoint.classes))
    load_weights(model, checkpoint, path)
    recipe = checkpoint.recipe
    about = {"checkpoint": str(path.resolve()), "step": checkpoint.step, "recipe": recipe.model_dump(mode="json")}
    dataset = Path(checkpoint.dataset)
    return Trained(path, model, checkpoint.classes, recipe, about, dataset, checkpoint.fingerprint)


def _of_weights_file(path: Path) -> Trained:
    info, model = read_weights_info(path), load_pretrained(path)
    about = {
        "weights": str(path.resolve()),
        "source": info.source,
        "model": info.model.model_dump(mode="json"),
        "data": info.data.model_dump(mode="json"),
    }
    return Trained(path, model, info.classes, Recipe(name=path.stem, data=info.data, model=info.model), about)
