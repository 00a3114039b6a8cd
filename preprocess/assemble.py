"""The indices, rejected.jsonl and dataset.json, put together from what the shards say of themselves."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from preprocess.errors import DataError
from preprocess.index import replace_atomically, sha256_of, shard_name, write_index
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
                    about["shards"].append(
                        {
                            "name": shard_name(number),
                            "videos": part.rows.num_rows,
                            "bytes": part.size,
                            "sha256": part.sha256,
                        }
                    )
                    yield part.rows

            index = data / split / "index.arrow"
            about["videos"] = write_index(index, rows_of(parts, about), {"split": split, **header["options"]})
            about["index_sha256"] = sha256_of(index)
            counted[split] = about
    if not any(about["videos"] for about in counted.values()):
        raise DataError(f"none of the {rejected} videos could be read: see {data / 'rejected.jsonl'}")
    totals = {"rejected": rejected, "rejected_sha256": sha256_of(data / "rejected.jsonl"), "splits": counted}
    with replace_atomically(data / "dataset.json") as temporary:
        temporary.write_bytes(as_text({**header, **totals}))
