"""Trained networks, from a run's checkpoint or a weights file, with what they are to be fed."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from preprocess.errors import DataError, UsageError
from preprocess.index import Dataset, read_dataset
from v4d.checkpoint import CHECKPOINTS, find_and_load, load_weights
from v4d.config import Recipe, TrainConfig
from v4d.models.folding import fold_norms
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

    @property
    def name(self) -> str:
        """What to call it in a picture: the folder of its run and its step, or the name of its weights file."""
        if "step" not in self.about:
            return self.path.name
        run = self.path.absolute().parent
        return f"{(run.parent if run.name == CHECKPOINTS else run).name}, step {self.about['step']}"

    @cached_property
    def digest(self) -> str:
        """sha256 of all of the network's tensors, as 64 hexadecimal digits."""
        digest = hashlib.sha256()
        for name, tensor in self.model.state_dict().items():
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()

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

    def is_own(self, dataset: Dataset) -> bool:
        """Whether the network was trained on ``dataset``, wherever it lies now, or on what lay at its place."""
        here = self.dataset is not None and self.dataset.resolve() == dataset.root.resolve()
        return here or dataset.fingerprint == self.fingerprint

    def for_test(self, device: torch.device) -> V4D:
        """The network on a device, in eval mode, its norms folded into its convolutions."""
        layout = torch.channels_last_3d if self.recipe.train.channels_last else torch.contiguous_format
        return fold_norms(self.model).to(device, memory_format=layout)  # type: ignore[call-overload,no-any-return]

    def class_names(self, dataset: Dataset | None) -> tuple[str, ...]:
        """The classes in the order of the scores: its own, those of as many of ``dataset``, or numbers from 0 on."""
        if self.classes:
            return self.classes
        if dataset and len(dataset.classes) == self.model.num_classes:
            return dataset.classes
        return tuple(f"class {number}" for number in range(self.model.num_classes))

    def dataset_of_frames(self, root: Path | None, console: Console) -> Dataset | None:
        """The dataset whose frames a video's should be like: that at ``root``, by default what it was trained on.

        None, with a note, if that is not known or not there. Raises DataError if ``root`` is no dataset.
        """
        if root is not None:
            return read_dataset(root)
        defaults = "frames are made as v4d preprocess does by default, which may differ: name a dataset with --data"
        if self.dataset is None or not self.dataset.exists():
            why = f"{self.dataset}, which it was trained on, is gone" if self.dataset else "says nothing of a dataset"
            console.print(f"note: {self.path}: {why}: {defaults}")
            return None
        dataset = read_dataset(self.dataset)
        if dataset.fingerprint != self.fingerprint:
            console.print(f"note: {self.dataset} has been made anew since {self.path} was trained on it")
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
    path, checkpoint = find_and_load(run)
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
    recipe = Recipe(name=path.stem, data=info.data, model=info.model, train=TrainConfig(loss=info.loss))
    return Trained(path, model, info.classes, recipe, about)
