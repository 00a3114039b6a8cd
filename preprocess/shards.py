"""The plan of a dataset's shards, and the writing of one: a pure function of its part of the plan."""

from __future__ import annotations

import json
import os
import tempfile
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import islice
from multiprocessing.synchronize import Semaphore
from pathlib import Path
from typing import IO, Any

import pyarrow as pa

from preprocess.durable_files import replace_atomically
from preprocess.encode import Packets, encode
from preprocess.errors import DataError, Interrupted
from preprocess.ffmpeg import EncodeOptions
from preprocess.index import CODEC_SUFFIX, SCHEMA, VideoRow, as_record_batch, shard_name
from preprocess.records import VideoRecord, printable
from preprocess.shard_tar import ABOUT, REJECTED, ShardPart, TarWriter, as_lines, as_text
from preprocess.sources import Unreadable

BUILDING = ".building"
_HELD_IN_MEMORY = 64 << 20
_SECONDS_BETWEEN_LOOKS = 0.2
_LARGEST_SHARD = 256
_SMALLEST_SHARD = 8
_SHARDS_WANTED = 32


@dataclass(frozen=True)
class ShardPlan:
    """The videos of one shard, in order, and where it goes.

    ``absent`` are videos that are known not to be had: the shard only says so. ``header`` is what every shard says
    of the dataset, and ``shards`` how many there are in the split.
    """

    data: Path
    root: Path
    split: str
    number: int
    shards: int
    records: tuple[VideoRecord, ...]
    absent: tuple[VideoRecord, ...]
    options: EncodeOptions
    header: dict[str, Any]

    @property
    def tar(self) -> Path:
        return self.data / self.split / shard_name(self.number)

    @property
    def part(self) -> Path:
        """The shard's part of the index: written last, so that its presence says the shard is finished."""
        return self.data / BUILDING / self.split / f"shard-{self.number:05d}.arrow"


@dataclass(frozen=True)
class _Encoded:
    packets: Packets
    file: IO[bytes]


def plan_shards(
    data: Path,
    root: Path,
    records: Sequence[VideoRecord],
    options: EncodeOptions,
    shard_size: int | None,
    header: dict[str, Any],
) -> list[ShardPlan]:
    """Divide the records of each split into shards of ``shard_size`` videos.

    ``None`` chooses a size from the number of videos alone: about 32 shards, of 8 to 256 videos, so that a small
    dataset keeps every core busy and a large one has files of about a gigabyte. Records with a problem take no room:
    they are shared out evenly.
    """
    by_split: dict[str, tuple[list[VideoRecord], list[VideoRecord]]] = {}
    for record in records:
        by_split.setdefault(record.split, ([], []))[bool(record.problem)].append(record)
    plans = []
    for split, (videos, absent) in sorted(by_split.items()):
        size = shard_size or min(_LARGEST_SHARD, max(_SMALLEST_SHARD, -(-len(videos) // _SHARDS_WANTED)))
        shards = max(1, -(-len(videos) // size))
        for number in range(shards):
            of_this = tuple(videos[number * size : (number + 1) * size])
            not_had = tuple(absent[number * len(absent) // shards : (number + 1) * len(absent) // shards])
            plans.append(ShardPlan(data, root, split, number, shards, of_this, not_had, options, header))
    return plans


def write_shard(
    plan: ShardPlan,
    on_video: Callable[[bool], None],
    stopped: Callable[[], bool],
    turns: Semaphore | None = None,
) -> None:
    """Encode a shard's videos and write its tar, then its part of the index.

    Neither file appears under its name before it is complete and on disk. ``on_video`` is called after each video
    with whether it was taken. ``turns`` bounds how many videos are encoded at a time by all who write shards: with
    it, the next video is begun as soon as there is a turn, while the one before it is written.

    Raises OSError when the disk does not take the shard, Interrupted soon after ``stopped()`` is true, DataError if a
    source is gone, and what else ``encode`` raises but Unreadable.
    """
    rows: list[VideoRow] = []
    rejected = [_rejected(plan, record, record.problem) for record in plan.absent]
    plan.tar.parent.mkdir(parents=True, exist_ok=True)
    scratch = plan.data / BUILDING
    with replace_atomically(plan.tar) as temporary:
        with open(temporary, "wb") as file:
            tar = TarWriter(file)
            tar.add(ABOUT, as_text({**plan.header, "split": plan.split, "shard": plan.number, "shards": plan.shards}))
            for record, found in _encoded_in_order(plan, scratch, stopped, turns):
                if isinstance(found, Unreadable):
                    rejected.append(_rejected(plan, record, found.reason, found.ffmpeg_message))
                else:
                    with found.file:
                        rows.append(_add_video(tar, plan, record, found.packets, found.file))
                on_video(not isinstance(found, Unreadable))
            tar.add(REJECTED, as_lines(rejected))
            tar.close()
    about = {"rejected": rejected, "size": tar.size, "sha256": tar.sha256}
    schema = SCHEMA.with_metadata({"part": json.dumps(about)})
    with replace_atomically(plan.part) as temporary, pa.OSFile(str(temporary), "wb") as sink:
        with pa.ipc.new_file(sink, schema) as writer:
            writer.write_batch(as_record_batch(rows).replace_schema_metadata(schema.metadata))


def _encoded_in_order(
    plan: ShardPlan, scratch: Path, stopped: Callable[[], bool], turns: Semaphore | None
) -> Iterator[tuple[VideoRecord, _Encoded | Unreadable]]:
    """Each video of a plan, encoded, or why it cannot be."""
    ended = threading.Event()

    def due() -> bool:
        return stopped() or ended.is_set()

    def one(record: VideoRecord) -> _Encoded | Unreadable:
        with _turn(turns, due):
            return _encode(plan, record, scratch, due)

    with ThreadPoolExecutor(2 if turns else 1) as threads:
        waiting: deque[tuple[VideoRecord, Future[_Encoded | Unreadable]]] = deque()
        records = iter(plan.records)
        try:
            while True:
                for record in islice(records, (2 if turns else 1) - len(waiting)):
                    waiting.append((record, threads.submit(one, record)))
                if not waiting:
                    return
                record, future = waiting.popleft()
                yield record, future.result()
        finally:
            # What is still being encoded when the shard fails is given up.
            ended.set()
            for _, future in waiting:
                with suppress(Exception):
                    if isinstance(left := future.result(), _Encoded):
                        left.file.close()


@contextmanager
def _turn(turns: Semaphore | None, due: Callable[[], bool]) -> Iterator[None]:
    # Somebody killed may have taken a turn with it.
    while turns and not turns.acquire(timeout=_SECONDS_BETWEEN_LOOKS):
        if due():
            raise Interrupted
    try:
        yield
    finally:
        if turns:
            turns.release()


def _encode(plan: ShardPlan, record: VideoRecord, scratch: Path, stopped: Callable[[], bool]) -> _Encoded | Unreadable:
    if stopped():
        raise Interrupted
    file = tempfile.SpooledTemporaryFile(_HELD_IN_MEMORY, dir=str(scratch))  # noqa: SIM115 - closed by who takes it
    try:
        _, packets = encode(record.source, plan.options, file, stopped, trim=record.trim, frame_rate=record.frame_rate)
        return _Encoded(packets, file)
    except Unreadable as why:
        file.close()
        _see_that_it_is_there(record.source)
        return why
    except BaseException:
        file.close()
        raise


def _see_that_it_is_there(source: Path) -> None:
    """A disk that went away must not look like thousands of bad videos."""
    try:
        source.stat()
    except OSError as error:
        raise DataError(
            f"{source} was there when the run began and is not now ({error.strerror}): mend that, then run the same "
            "command again"
        ) from None


def read_part(plan: ShardPlan) -> ShardPart:
    """Read what ``write_shard`` left in ``plan.part``."""
    with pa.memory_map(str(plan.part)) as source, pa.ipc.open_file(source) as reader:
        about = json.loads(reader.schema.metadata[b"part"])
        batch = reader.get_batch(0).replace_schema_metadata(None)
    return ShardPart(batch, tuple(about["rejected"]), about["size"], about["sha256"])


def relative_source(plan_root: Path, source: Path) -> str:
    """A source as the index names it: relative to the videos' folder, as text."""
    return printable(str(source).removeprefix(f"{str(plan_root).rstrip(os.sep)}{os.sep}"))


def _rejected(plan: ShardPlan, record: VideoRecord, reason: str, ffmpeg_message: str = "") -> dict[str, str]:
    return {
        "key": record.key,
        "split": plan.split,
        "source": relative_source(plan.root, record.source),
        "reason": reason,
        "ffmpeg": ffmpeg_message,
    }


def _add_video(tar: TarWriter, plan: ShardPlan, record: VideoRecord, encoded: Packets, packets: IO[bytes]) -> VideoRow:
    size = packets.seek(0, os.SEEK_END)
    packets.seek(0)
    offset, crc32 = tar.copy(f"{record.key}.{CODEC_SUFFIX[plan.options.codec]}", size, packets)
    row = VideoRow(
        key=record.key,
        source=relative_source(plan.root, record.source),
        labels=record.labels,
        shard=plan.number,
        offset=offset,
        size=size,
        frames=len(encoded.sizes),
        width=encoded.width,
        height=encoded.height,
        fps_num=encoded.fps.numerator,
        fps_den=encoded.fps.denominator,
        start=encoded.start,
        end=encoded.end,
        segments=record.segments,
        packet_bytes=encoded.sizes,
        packet_crc32=encoded.crc32,
        packet_back=encoded.back,
    )
    tar.add(f"{record.key}.json", row.as_json(crc32))
    return row
