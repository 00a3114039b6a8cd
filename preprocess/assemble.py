"""The indices, rejected.jsonl and dataset.json, put together from what the shards say of themselves."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from preprocess.durable_files import replace_atomically, sha256_of
from preprocess.errors import DataError
from preprocess.index import shard_name, write_index
from preprocess.shard_tar import ShardPart, as_lines, as_text


def assemble(data: Path, header: dict[str, Any], splits: dict[str, Iterable[ShardPart]]) -> None:
    """Write each split's index and rejected.jsonl; dataset.json, ``header`` and the counts, comes last of all.

    The parts of a split, one for each shard in order, are gone through once. Raises DataError if no split but
    ``test`` has a video.
    """
    counted: dict[str, dict[str, Any]] = {}
    rejected = 0
    with replace_atomically(data / "rejected.jsonl") as temporary, open(temporary, "wb") as lines:
        for split, parts in splits.items():
            about: dict[str, Any] = {"videos": 0, "frames": 0, "index_sha256": "", "shards": []}

            def rows_of(parts: Iterable[ShardPart], about: dict[str, Any]) -> Iterator[pa.RecordBatch]:
                nonlocal rejected
                for number, part in enumerate(parts):
                    rejected += len(part.rejected)
                    lines.write(as_lines(part.rejected))
                    about["frames"] += int(part.rows.column("frames").to_numpy().sum())
                    about["shards"].append(shard_entry(number, part.rows.num_rows, part.size, part.sha256))
                    yield part.rows

            index = data / split / "index.arrow"
            about["videos"] = write_index(index, rows_of(parts, about), index_metadata(split, header))
            about["index_sha256"] = sha256_of(index)
            counted[split] = about
    if not any(about["videos"] for about in counted.values()):
        raise DataError(f"none of the {rejected} videos could be read: see {data / 'rejected.jsonl'}")
    with replace_atomically(data / "dataset.json") as temporary:
        temporary.write_bytes(dataset_json(header, rejected, sha256_of(data / "rejected.jsonl"), counted))


def index_metadata(split: str, header: dict[str, Any]) -> dict[str, Any]:
    """What a split's index.arrow says of itself."""
    return {"split": split, **header["options"]}


def shard_entry(number: int, videos: int, size: int, sha256: str) -> dict[str, Any]:
    """What dataset.json says of a shard."""
    return {"name": shard_name(number), "videos": videos, "bytes": size, "sha256": sha256}


def dataset_json(header: dict[str, Any], rejected: int, rejected_sha256: str, splits: dict[str, Any]) -> bytes:
    """The content of dataset.json: what the shards say of the dataset, and the counts."""
    return as_text({**header, "rejected": rejected, "rejected_sha256": rejected_sha256, "splits": splits})
