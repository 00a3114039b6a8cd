"""Scores of video files, straight from the files.

Shape suffixes: K classes.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from pipelines.file_loader import FileLoader
from preprocess.directions import flip_of
from preprocess.errors import DataError, UsageError
from preprocess.index import Dataset
from v4d.evaluation.protocols import Protocol
from v4d.evaluation.scoring import scored_batches
from v4d.trained import Trained

# What counts as a video in a folder; a file that is named is taken whatever its name.
VIDEO_SUFFIXES = frozenset(
    {".3gp", ".avi", ".flv", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts", ".ogv", ".ts", ".vob"}
    | {".webm", ".wmv"}
)


@dataclass(frozen=True, eq=False)
class Prediction:
    """The scores (K,) float32 of a video, in the order of the network's classes."""

    video: Path
    scores_K: np.ndarray

    def top(self, count: int) -> list[tuple[int, float]]:
        """The classes with the highest scores, by number, highest first; of equal ones the lower number."""
        order = np.argsort(-self.scores_K, kind="stable")[:count]
        return [(int(i), float(self.scores_K[i])) for i in order]


def predictions(
    trained: Trained,
    files: Sequence[Path],
    dataset: Dataset | None,
    *,
    protocol: Protocol,
    device: torch.device,
    on_bad: Callable[[Path, DataError], None],
) -> Iterator[Prediction]:
    """The scores of each file, in their order: by a protocol of trimmed videos, as ``evaluate`` has them of a dataset.

    Frames are made as those of ``dataset``, or as preprocessing makes them by default. ``on_bad`` is called for a file
    that preprocessing would reject, or that the machine failed to read, with a message that names it; it has no scores.

    Raises UsageError for too few units, DataError where the network's scores are no numbers, and what ``FileLoader``
    raises.
    """
    recipe = trained.recipe
    protocol.check(recipe.data)
    take = protocol.sampling(recipe.data)
    loader = FileLoader(files, dataset, take, device=device, on_bad=on_bad, crops=protocol.places)
    # Of the network's own classes: those of the dataset whose frames these are like may be others.
    flip = dict(enumerate(flip_of(trained.class_names(dataset))))
    for batch, scores_BK in scored_batches(trained.for_test(device), loader, recipe, protocol, flip=flip):
        (row,) = batch.rows_B.tolist()
        scores_K = scores_BK[0].cpu().numpy()
        if not np.isfinite(scores_K).all():
            raise DataError(f"{trained.path} gives scores that are no numbers, first to '{files[row]}'")
        yield Prediction(files[row], scores_K)


def video_files(paths: Sequence[Path]) -> list[Path]:
    """The files among ``paths``, and of each folder the videos below it, by their suffix, in order; each once.

    What is hidden in a folder is left out, and links to folders are not followed. A path that is not there is kept:
    reading it says so. Raises UsageError for a folder without a video, OSError if one cannot be read.
    """
    found: dict[Path, None] = {}
    for path in paths:
        if not path.is_dir():
            found[path] = None
            continue
        below = _videos_below(path)
        if not below:
            raise UsageError(f"{path} holds no video: {', '.join(sorted(VIDEO_SUFFIXES))} count as such")
        found |= dict.fromkeys(below)
    return list(found)


def _videos_below(root: Path) -> list[Path]:
    def fail(error: OSError) -> None:
        raise error

    videos: list[Path] = []
    for folder, subfolders, names in os.walk(root, onerror=fail):
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        paths = (Path(folder) / name for name in names if not name.startswith("."))
        videos += [path for path in paths if path.suffix.lower() in VIDEO_SUFFIXES]
    return sorted(videos)
