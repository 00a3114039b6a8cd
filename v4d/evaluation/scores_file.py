"""The dump of an evaluation, scores.arrow: key, labels and scores of each video, and in its metadata what made it.

Shape suffixes: N videos, K classes.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from preprocess.durable_files import replace_atomically
from preprocess.errors import DataError

SCORES = "scores.arrow"
_SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("label", pa.int32()),
        ("labels", pa.list_(pa.int32())),
        ("scores", pa.list_(pa.float32())),
    ]
)


@dataclass(frozen=True)
class Scores:
    """What a dump holds.

    ``labels_N`` (int32) is the first of each video's ``labels``, -1 where it has none; ``scores_NK`` float32; ``about``
    is what made it, with ``class_names``.
    """

    keys: tuple[str, ...]
    labels_N: np.ndarray
    labels: tuple[tuple[int, ...], ...]
    scores_NK: np.ndarray
    about: dict[str, Any]

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names of the K classes."""
        return tuple(self.about["class_names"])

    @property
    def is_multi_label(self) -> bool:
        """Whether the network says of each class by itself whether a video shows it."""
        return bool(self.about.get("loss") == "sigmoid")

    @property
    def is_ranked(self) -> bool:
        """Whether the measures of ActivityNet's benchmark are wanted of it."""
        return self.is_multi_label or self.about.get("dataset_kind") == "activitynet"


def write_scores(
    path: Path,
    keys: Sequence[str],
    labels: Sequence[Sequence[int]],
    scores: Sequence[np.ndarray],
    about: dict[str, Any],
) -> None:
    """Write a dump, whole or not at all: a row per video, in this order, with all its labels."""
    first = [of_video[0] if len(of_video) else -1 for of_video in labels]
    table = pa.table([keys, first, labels, scores], schema=_SCHEMA.with_metadata({"v4d": json.dumps(about)}))
    with _written(path, table.schema) as writer:
        writer.write_table(table)


def join_scores(path: Path, parts: Sequence[Path], about: dict[str, Any]) -> int:
    """Write the videos of several dumps as one, whole or not at all, a part at a time. Returns how many they are.

    Raises DataError as ``read_scores``.
    """
    schema = _SCHEMA.with_metadata({"v4d": json.dumps(about)})
    videos = 0
    with _written(path, schema) as writer:
        for part in parts:
            with _opened(part) as reader:
                table = reader.read_all()
            writer.write_table(table.replace_schema_metadata(schema.metadata))
            videos += len(table)
    return videos


def read_about(path: Path) -> dict[str, Any]:
    """What made a dump, given its file. Raises DataError as ``read_scores``."""
    with _opened(path) as reader:
        about: dict[str, Any] = json.loads(reader.schema.metadata[b"v4d"])
        return about


@contextmanager
def _written(path: Path, schema: pa.Schema) -> Iterator[Any]:
    """The writer of a dump. Raises OSError, with its path, where it cannot be written."""
    try:
        with replace_atomically(path) as temporary, pa.OSFile(str(temporary), "wb") as sink:
            with pa.ipc.new_file(sink, schema) as writer:
                yield writer
    except OSError as error:
        # Arrow's names no file.
        number = error.errno or errno.EIO
        raise OSError(number, os.strerror(number), str(path)) from None


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """The reader of a dump. Raises DataError, in the block too."""
    try:
        with pa.memory_map(str(path)) as source:
            yield pa.ipc.open_file(source)
    except FileNotFoundError:
        raise DataError(f"there are no scores at {path}: v4d eval writes them") from None
    except (pa.ArrowInvalid, KeyError, TypeError, ValueError, OSError) as error:
        raise DataError(f"{path} holds no scores of v4d eval, or is damaged: {error}") from None


def read_scores(path: Path) -> Scores:
    """Read a dump: the file, or the folder that holds it.

    Raises DataError if it is missing, damaged or none.
    """
    path = path / SCORES if path.is_dir() else path
    with _opened(path) as reader:
        table = reader.read_all()
        about = json.loads(table.schema.metadata[b"v4d"])
        if "labels" not in table.column_names:
            raise DataError(f"{path} is of an older version of v4d: evaluate again")
        classes = len(about["class_names"])
        flat = table["scores"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
        scores_NK = flat.astype(np.float32, copy=False).reshape(len(table), classes)
        labels = tuple(map(tuple, table["labels"].to_pylist()))
        dump = Scores(tuple(table["key"].to_pylist()), table["label"].to_numpy(), labels, scores_NK, about)
    if any(not 0 <= label < classes for of_video in labels for label in of_video):
        raise DataError(f"{path} holds labels that are none of its {classes} classes")
    if not np.isfinite(scores_NK).all():
        raise DataError(f"{path} holds scores that are no numbers")
    return dump
