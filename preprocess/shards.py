"""The plan of a dataset's shards, and the writing of one: a pure function of its part of the plan."""

from __future__ import annotations

import json
import os
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import pyarrow as pa

from preprocess.encode import Packets, encode
from preprocess.errors import Interrupted
from preprocess.ffmpeg import EncodeOptions
from preprocess.index import (
    CODEC_SUFFIX,
    SCHEMA,
    VideoRow,
    as_record_batch,
    replace_atomically,
    sha256_of,
    shard_name,
)
from preprocess.records import VideoRecord, printable
from preprocess.sources import Unreadable

BUILDING = ".building"
_HELD_IN_MEMORY = 64 << 20
_LARGEST_SHARD = 256
_SMALLEST_SHARD = 8
_SHARDS_WANTED = 32


@dataclass(frozen=True)
class ShardPlan:
    """The videos of one shard, in order, and where it goes."""

    data: Path
    root: Path
    split: str
    number: int
    records: tuple[VideoRecord, ...]
    options: EncodeOptions

    @property
    def tar(self) -> Path:
        return self.data / self.split / shard_name(self.number)

    @property
    def part(self) -> Path:
        """The shard's part of the index: written last, so that its presence says the shard is finished."""
        return self.data / BUILDING / self.split / f"shard-{self.number:05d}.arrow"


@dataclass(frozen=True)
class ShardPart:
    """What a finished shard left behind: its rows, its rejected videos, its size and sha256."""

    rows: pa.RecordBatch
    rejected: tuple[dict[str, str], ...]
    size: int
    sha256: str


def plan_shards(
    data: Path, root: Path, records: tuple[VideoRecord, ...], options: EncodeOptions, shard_size: int | None
) -> list[ShardPlan]:
    """Divide the records of each split into shards of ``shard_size`` videos.

    ``None`` chooses a size from the number of videos alone: about 32 shards, of 8 to 256 videos, so that a small
    dataset keeps every core busy and a large one has files of about a gigabyte.
    """
    plans = []
    for split in sorted({record.split for record in records}):
        members = tuple(record for record in records if record.split == split)
        size = shard_size or min(_LARGEST_SHARD, max(_SMALLEST_SHARD, -(-len(members) // _SHARDS_WANTED)))
        for number, first in enumerate(range(0, len(members), size)):
            plans.append(ShardPlan(data, root, split, number, members[first : first + size], options))
    return plans


def write_shard(plan: ShardPlan, on_video: Callable[[bool], None], stopped: Callable[[], bool]) -> None:
    """Encode a shard's videos and write its tar, then its part of the index.

    Neither file appears under its name before it is complete and on disk. ``on_video`` is called after each video
    with whether it was taken. Raises OSError when the disk does not take the shard, Interrupted soon after
    ``stopped()`` is true, and what else ``encode`` raises but Unreadable.
    """
    rows: list[VideoRow] = []
    rejected: list[dict[str, str]] = []
    plan.tar.parent.mkdir(parents=True, exist_ok=True)
    scratch = plan.data / BUILDING
    with replace_atomically(plan.tar) as temporary:
        with open(temporary, "wb") as file:
            for record in plan.records:
                if stopped():
                    raise Interrupted
                with tempfile.SpooledTemporaryFile(_HELD_IN_MEMORY, dir=str(scratch)) as packets:
                    try:
                        _, encoded = encode(
                            record.source,
                            plan.options,
                            packets,
                            stopped,
                            trim=record.trim,
                            frame_rate=record.frame_rate,
                        )
                    except Unreadable as why:
                        rejected.append(_rejected(plan, record, why))
                        on_video(False)
                        continue
                    rows.append(_add_video(file, plan, record, encoded, packets))
                on_video(True)
            file.write(bytes(2 * tarfile.BLOCKSIZE))
        size, digest = temporary.stat().st_size, sha256_of(temporary)
    about = {"rejected": rejected, "size": size, "sha256": digest}
    schema = SCHEMA.with_metadata({"part": json.dumps(about)})
    with replace_atomically(plan.part) as temporary, pa.OSFile(str(temporary), "wb") as sink:
        with pa.ipc.new_file(sink, schema) as writer:
            writer.write_batch(as_record_batch(rows).replace_schema_metadata(schema.metadata))


def read_part(plan: ShardPlan) -> ShardPart:
    """Read what ``write_shard`` left in ``plan.part``."""
    with pa.memory_map(str(plan.part)) as source, pa.ipc.open_file(source) as reader:
        about = json.loads(reader.schema.metadata[b"part"])
        batch = reader.get_batch(0).replace_schema_metadata(None)
    return ShardPart(batch, tuple(about["rejected"]), about["size"], about["sha256"])


def relative_source(plan_root: Path, source: Path) -> str:
    """A source as the index names it: relative to the videos' folder, as text."""
    return printable(source.relative_to(plan_root) if source.is_relative_to(plan_root) else source)


def _rejected(plan: ShardPlan, record: VideoRecord, why: Unreadable) -> dict[str, str]:
    return {
        "key": record.key,
        "split": plan.split,
        "source": relative_source(plan.root, record.source),
        "reason": why.reason,
        "ffmpeg": why.ffmpeg_message,
    }


def _add_video(file: IO[bytes], plan: ShardPlan, record: VideoRecord, encoded: Packets, packets: IO[bytes]) -> VideoRow:
    size = packets.seek(0, os.SEEK_END)
    file.write(_tar_header(f"{record.key}.{CODEC_SUFFIX[plan.options.codec]}", size))
    row = VideoRow(
        key=record.key,
        source=relative_source(plan.root, record.source),
        labels=record.labels,
        shard=plan.number,
        offset=file.tell(),
        size=size,
        frames=len(encoded.sizes),
        width=encoded.width,
        height=encoded.height,
        fps_num=encoded.fps.numerator,
        fps_den=encoded.fps.denominator,
        start=encoded.start,
        end=encoded.end,
        segments=(),
        packet_bytes=encoded.sizes,
        packet_crc32=encoded.crc32,
        packet_back=encoded.back,
    )
    packets.seek(0)
    for block in _blocks(packets):
        file.write(block)
    _pad(file)
    about = row.as_json()
    file.write(_tar_header(f"{record.key}.json", len(about)) + about)
    _pad(file)
    return row


def _tar_header(name: str, size: int) -> bytes:
    """A member's header with nothing in it that differs from run to run."""
    member = tarfile.TarInfo(name)
    member.size, member.mode = size, 0o644
    return member.tobuf(tarfile.PAX_FORMAT)


def _pad(file: IO[bytes]) -> None:
    file.write(bytes(-file.tell() % tarfile.BLOCKSIZE))


def _blocks(file: IO[bytes]) -> Iterator[bytes]:
    return iter(lambda: file.read(1 << 20), b"")
