"""A shard compared with the rows of an index that is known to be whole: each byte that differs is some video's."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import numpy as np
import pyarrow as pa

from preprocess.index import CODEC_SUFFIX, Index, VideoRow, packet_offsets
from preprocess.shard_reader import (
    Damaged,
    Fault,
    ShardFile,
    about_of,
    crc32_said,
    end_of,
    ends_early,
    read_shard,
    rejected_of,
    with_crc32,
)
from preprocess.shard_tar import REJECTED, TarReader, header_of, padding_of

_BLOCK = 1 << 20


@dataclass(frozen=True)
class ShardTask:
    """A shard to check; ``rows``: its first row in the index and one past the last, None without an index."""

    shard: ShardFile
    rows: tuple[int, int] | None


@dataclass(eq=False)
class ShardReport:
    """What was found: faults, and what the shard says where that could be read."""

    shard: ShardFile
    faults: list[Fault]
    header: dict[str, Any] | None
    shards: int
    rejected: tuple[dict[str, str], ...] | None
    videos: int
    frames: int
    packets: int
    size: int
    sha256: str
    rows: pa.RecordBatch | None = None


def check_shard(task: ShardTask) -> ShardReport:
    """Check a shard against its rows of the index; without rows, against what it says of itself. Raises OSError."""
    return _by_itself(task.shard) if task.rows is None else _by_index(task.shard, *task.rows)


def _by_itself(shard: ShardFile) -> ShardReport:
    try:
        content = read_shard(shard)
    except Damaged as damaged:
        return ShardReport(shard, [damaged.fault], None, 0, None, 0, 0, 0, shard.path.stat().st_size, "")
    part = content.part
    return ShardReport(
        shard=shard,
        faults=[],
        header=content.header,
        shards=content.shards,
        rejected=part.rejected,
        videos=part.rows.num_rows,
        frames=int(part.rows.column("frames").to_numpy().sum()),
        packets=len(part.rows.column("packet_bytes").values),
        size=part.size,
        sha256=part.sha256,
        rows=part.rows,
    )


def _by_index(shard: ShardFile, first: int, end: int) -> ShardReport:
    index = Index(shard.data / shard.split / "index.arrow")
    codec = index.metadata["codec"]
    rows, suffix = [index[number] for number in range(first, end)], f".{CODEC_SUFFIX[codec]}"
    begins = [row.offset - len(header_of(row.key + suffix, row.size)) for row in rows]
    faults: list[Fault] = []
    header, shards, rejected, key = None, 0, None, ""
    with open(shard.path, "rb", buffering=_BLOCK) as file:
        reader = TarReader(file)
        try:
            header, shards = _about(reader, shard, begins[0] if rows else None, faults)
            # Of a shard that holds no video there is nothing to go through.
            for row, next_begins in zip(rows, [*begins[1:], *[None] * bool(rows)], strict=True):
                key = row.key
                found = _video(reader, row, suffix, packet_offsets(codec, row.packet_bytes), next_begins)
                faults += (Fault(shard.name, key, at, what) for at, what in found)
            key = ""
            if rows or header:
                rejected = _rest(reader, shard, faults)
        except EOFError as error:
            faults.append(ends_early(shard, error, key))
        reader.skip()
    return ShardReport(
        shard=shard,
        faults=faults,
        header=header,
        shards=shards,
        rejected=rejected,
        videos=len(rows),
        frames=sum(row.frames for row in rows),
        packets=sum(len(row.packet_bytes) for row in rows),
        size=reader.at,
        sha256=reader.sha256,
    )


def _about(
    reader: TarReader, shard: ShardFile, ends: int | None, faults: list[Fault]
) -> tuple[dict[str, Any] | None, int]:
    """The shard's description, which ends where the first video begins: at ``ends``, if there is one."""
    part = reader if ends is None else TarReader(BytesIO(reader.take(ends)))
    try:
        said = about_of(part, shard)
        if ends is None or part.at == ends:
            return said
        faults.append(Fault(shard.name, "", part.at, "the shard's description is longer than it was,"))
    except Damaged as damaged:
        faults.append(damaged.fault)
    except EOFError:
        if ends is None:
            raise
        faults.append(Fault(shard.name, "", 0, "the shard's description is damaged"))
    return None, 0


def _video(
    reader: TarReader, row: VideoRow, suffix: str, places: np.ndarray, ends: int | None
) -> Iterator[tuple[int, str]]:
    """What is wrong with a video's two members: where, and what. The next video begins at ``ends``."""
    begins = reader.at
    if at := _differs(reader, header_of(row.key + suffix, row.size)):
        yield at - 1, "the header of its packets is damaged"
    damaged, crc32 = [], 0
    done = 0
    for number, (place, size) in enumerate(zip(places.tolist(), row.packet_bytes.tolist(), strict=True)):
        between = reader.take(place - done)
        packet = reader.take(size)
        if zlib.crc32(packet) != row.packet_crc32[number]:
            damaged.append(number)
        crc32 = zlib.crc32(packet, zlib.crc32(between, crc32))
        done = place + size
    if damaged:
        others = f" and of {len(damaged) - 1} more" * (len(damaged) > 1)
        at = row.offset + int(places[damaged[0]])
        yield at, f"the packet of frame {damaged[0]}{others} is damaged (CRC-32)"
    crc32 = zlib.crc32(reader.take(row.size - done), crc32)
    if at := _differs(reader, padding_of(row.size)):
        yield at - 1, "the padding after its packets is damaged"
    begins = reader.at
    found = reader.take((ends or begins + len(_described(row, crc32))) - begins)
    if found != _described(row, crc32):
        wanted = _described(row, crc32, crc32_said(found))
        if found == wanted and not damaged:
            yield row.offset, "its CRC-32 is damaged, or what lies between its packets,"
        elif found != wanted:
            yield begins + _first_difference(found, wanted), "its description is damaged"


def _described(row: VideoRow, crc32: int, said: bytes = b"") -> bytes:
    """The whole member KEY.json, as it should be or with the CRC-32 that it says."""
    content = row.as_json(crc32)
    if said:
        content = with_crc32(content, said)
    return header_of(f"{row.key}.json", len(content)) + content + padding_of(len(content))


def _rest(reader: TarReader, shard: ShardFile, faults: list[Fault]) -> tuple[dict[str, str], ...] | None:
    """The shard's rejected videos and the end of its tar."""
    begins = reader.at
    try:
        found = reader.member()
    except ValueError:
        found = None
    if found is None or found[0] != REJECTED:
        faults.append(Fault(shard.name, "", begins, "the header of the shard's list of rejected videos is damaged"))
        return None
    try:
        rejected = rejected_of(reader, shard, found[1])
        end_of(reader, shard)
    except Damaged as damaged:
        faults.append(damaged.fault)
        return None
    return rejected


def _differs(reader: TarReader, wanted: bytes) -> int:
    """0 if the next bytes are those wanted, else one more than where they are not."""
    begins, found = reader.at, reader.take(len(wanted))
    return 0 if found == wanted else begins + _first_difference(found, wanted) + 1


def _first_difference(a: bytes, b: bytes) -> int:
    return next((at for at, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
