"""The dump of an evaluation, scores.arrow: key, label and scores of each video, and in its metadata what made it.

Shape suffixes: N videos, K classes.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from preprocess.durable_files import replace_atomically
from preprocess.errors import DataError

SCORES = "scores.arrow"
_SCHEMA = pa.schema([("key", pa.string()), ("label", pa.int32()), ("scores", pa.list_(pa.float32()))])


@dataclass(frozen=True)
class Scores:
    """What a dump holds: ``label`` is -1 where nobody knows it, ``scores`` float32; ``about`` is what made it."""

    keys: tuple[str, ...]
    labels_N: np.ndarray
    scores_NK: np.ndarray
    about: dict[str, Any]


def write_scores(
    path: Path, keys: Sequence[str], labels: Sequence[int], scores: Sequence[np.ndarray], about: dict[str, Any]
) -> None:
    """Write a dump, whole or not at all: a row per video, in this order."""
    table = pa.table([keys, labels, scores], schema=_SCHEMA.with_metadata({"v4d": json.dumps(about)}))
    with replace_atomically(path) as temporary, pa.OSFile(str(temporary), "wb") as sink:
        with pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table)


def read_scores(path: Path) -> Scores:
    """Read a dump: the file, or the folder that holds it.

    Raises DataError if it is missing, damaged or none.
    """
    path = path / SCORES if path.is_dir() else path
    try:
        with pa.memory_map(str(path)) as source:
            table = pa.ipc.open_file(source).read_all()
        about = json.loads(table.schema.metadata[b"v4d"])
        labels_N = table["label"].to_numpy()
        flat = table["scores"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
        scores_NK = flat.astype(np.float32).reshape(len(labels_N), -1) if len(labels_N) else np.zeros((0, 0), "f4")
        return Scores(tuple(table["key"].to_pylist()), labels_N, scores_NK, about)
    except FileNotFoundError:
        raise DataError(f"there are no scores at {path}: v4d eval writes them") from None
    except (pa.ArrowInvalid, KeyError, TypeError, ValueError, OSError) as error:
        raise DataError(f"{path} holds no scores of v4d eval, or is damaged: {error}") from None
