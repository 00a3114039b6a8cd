"""The indices, rejected.jsonl and dataset.json of a dataset, made anew from its shards alone."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from preprocess.assemble import assemble
from preprocess.errors import DataError
from preprocess.index import read_dataset
from preprocess.parallel import in_order
from preprocess.shard_reader import ShardFile, read_about, read_shard
from preprocess.shard_tar import ShardPart
from preprocess.shards import BUILDING


@dataclass(frozen=True)
class Rebuilt:
    """What a rebuild found: videos per split, shards, their bytes, and the seconds it took."""

    data: Path
    videos: dict[str, int]
    shards: int
    size: int
    seconds: float

    def line(self) -> str:
        """What to tell a person."""
        splits = ", ".join(f"{count} {split}" for split, count in self.videos.items())
        return f"{self.data}: {splits} videos of {self.shards} shards, {self.size / 1e6:,.0f} MB ({self.seconds:.0f} s)"


def rebuild(data: Path, workers: int = 1, on_shard: Callable[[int, int], None] = lambda done, total: None) -> Rebuilt:
    """Write index.arrow of every split, rejected.jsonl and dataset.json from the shards, byte for byte as they were.

    ``on_shard`` is called after each shard, with how many are done, and of how many. Raises DataError where a shard
    is missing, damaged or of another dataset, or the dataset is not finished: files that were there stay, each as it
    was or as it should be. Raises Interrupted on Ctrl-C or SIGTERM.
    """
    began = time.monotonic()
    if (data / BUILDING).exists():
        raise DataError(f"{data} is not finished: run the same v4d preprocess command again")
    shards = shards_of(data)
    if not shards:
        raise DataError(f"{data} holds no shards: run v4d preprocess")
    header = _agreed(shards)
    _refuse_missing(data, shards)
    done = size = 0
    total = sum(map(len, shards.values()))

    def parts(files: list[ShardFile]) -> Iterator[ShardPart]:
        nonlocal done, size
        for content in in_order(read_shard, files, workers):
            done += 1
            size += content.part.size
            on_shard(done, total)
            yield content.part

    assemble(data, header, {split: parts(files) for split, files in shards.items()})
    videos = {split: about["videos"] for split, about in read_dataset(data).splits.items()}
    return Rebuilt(data, videos, total, size, time.monotonic() - began)


def shards_of(data: Path) -> dict[str, list[ShardFile]]:
    """The shards that lie in a dataset's folder, by split and number."""
    found: dict[str, list[ShardFile]] = {}
    for path in sorted(data.glob("*/shard-*.tar")):
        number = path.stem.removeprefix("shard-")
        if number.isdecimal() and path.name == (shard := ShardFile(data, path.parent.name, int(number))).path.name:
            found.setdefault(shard.split, []).append(shard)
    return {split: sorted(shards, key=lambda shard: shard.number) for split, shards in found.items()}


def _agreed(shards: dict[str, list[ShardFile]]) -> dict[str, Any]:
    """What all shards say of the dataset; and that all shards of each split are there."""
    first: ShardFile | None = None
    agreed: dict[str, Any] = {}
    for files in shards.values():
        wanted = 0
        for shard in files:
            header, count = read_about(shard)
            if first is None:
                first, agreed = shard, header
            if json.dumps(header) != json.dumps(agreed):
                raise DataError(f"{shard.path} is of another dataset than {first.path}: put the right one there")
            if count != (wanted := wanted or count):
                raise DataError(
                    f"{shard.path} is one of {count} shards, {files[0].path} one of {wanted}: put the right one there"
                )
        numbers = {shard.number for shard in files}
        for number in range(wanted):
            if number not in numbers:
                missing = ShardFile(files[0].data, files[0].split, number)
                raise DataError(f"{missing.path} is missing: of {wanted} shards {len(numbers)} are there: restore it")
    return agreed


def _refuse_missing(data: Path, shards: dict[str, list[ShardFile]]) -> None:
    """A split of which nothing is left only dataset.json knows of, if it can be read."""
    try:
        before = read_dataset(data).splits
    except DataError:
        return
    for split in before:
        if split not in shards:
            raise DataError(f"{data / split} holds no shards, but {data / 'dataset.json'} names this split: restore it")
