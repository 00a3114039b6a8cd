"""Importing a network that another project trained."""

from __future__ import annotations

from pathlib import Path

import torch

from preprocess.errors import DataError
from v4d.models.network import V4D
from v4d.weights.foreign_names import our_names
from v4d.weights.foreign_networks import Match, architecture, match
from v4d.weights.torch_files import read_state_dict


def read_foreign(path: Path, naming: str, classes: tuple[str, ...] = ()) -> tuple[V4D, Match]:
    """The network in ``path``, whose keys are as ``naming`` (one of NAMINGS) has them, and what was found where.

    What is missing in the file, as its 4D blocks, is fresh, and the same at every call. ``classes`` are the names of
    the scores. If a shape does not fit, the network has no weights and is on the meta device: see ``check``.

    Raises DataError if the file holds no network of ours, or other classes than ``classes``.
    """
    state = read_state_dict(path)
    try:
        config = architecture(state, naming)
    except DataError as error:
        raise DataError(f"{path}: {error}") from None
    keys = {name: key for key, name in our_names(naming, state).items()}
    scores = len(state[keys["classifier.weight"]]) if "classifier.weight" in keys else len(classes)
    if not scores:
        raise DataError(f"{path} has no classifier: name its classes with --classes, for a fresh one")
    if classes and len(classes) != scores:
        raise DataError(f"{path} tells {scores} classes apart, and {len(classes)} are named")
    # Shapes alone: what does not fit should take no memory, whatever its size.
    with torch.device("meta"):
        model = V4D(config, scores)
    found = match(state, naming, {name: tuple(value.shape) for name, value in model.state_dict().items()})
    if not found.mismatched:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = V4D(config, scores)
        model.load_state_dict(found.tensors, strict=False)
    model.classes = classes
    return model.eval(), found


def check(found: Match, path: Path, strict: bool) -> None:
    """Raise DataError if a shape does not fit; with ``strict`` also if a key is missing or unexpected.

    4D blocks and the classifier may be missing: networks that are trained on to V4D have none.
    """
    if found.mismatched:
        more = f" (and {len(found.mismatched) - 1} more)" if len(found.mismatched) > 1 else ""
        raise DataError(f"{path} does not fit: {found.mismatched[0]}{more}")
    if not strict:
        return
    missing = [name for name in found.missing if not may_be_fresh(name)]
    if missing:
        raise DataError(f"{path} lacks {missing[0]} and {len(missing) - 1} more of the network")
    if found.unexpected:
        raise DataError(
            f"{path} has {found.unexpected[0]} and {len(found.unexpected) - 1} more that nothing here is for"
        )


def may_be_fresh(name: str) -> bool:
    """Whether a weight of ours belongs to what a trained network need not bring: a 4D block, or the classifier."""
    return "_4d." in name or name.startswith("classifier.")
