"""The shard format: the schema of an index, its writer and its reader, and dataset.json.

A dataset is a folder:

    DATA/
      dataset.json                 class names, codec, options, counts, sha256 of every file below
      train/index.arrow            Arrow IPC file, one row per video, opened by memory map
      train/shard-00000.tar        POSIX tar: KEY.mjpeg (JPEG packets, concatenated) or KEY.ivf (packets of vp9 or
                                   h264 in IVF), and KEY.json (the row)
      val/...
      rejected.jsonl               one line for each video left out

With ``preprocess.errors`` and ``preprocess.durable_files`` this is what ``pipelines`` and ``v4d`` import of
``preprocess``; the former also ``preprocess.single_files``, the latter ``preprocess.clip_file``.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import IO, Any

import numpy as np
import pyarrow as pa

from preprocess.durable_files import replace_atomically
from preprocess.errors import DataError

VERSION = version("v4d")
FORMAT = 1
ROWS_PER_BATCH = 1024
CODEC_SUFFIX = {"mjpeg": "mjpeg", "vp9": "ivf", "h264": "ivf"}
# An IVF file begins with a header, and so does each of its packets.
IVF_HEADER, IVF_PACKET_HEADER = 32, 12
# A row touches the map in a few places, and at each the kernel maps 64 kB, which count as our memory.
_ROWS_BETWEEN_RELEASES = 256

SEGMENT = pa.struct([("label", pa.int32()), ("start", pa.float64()), ("end", pa.float64())])
SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("source", pa.string()),
        ("labels", pa.list_(pa.int32())),
        ("shard", pa.int32()),
        ("offset", pa.int64()),
        ("size", pa.int64()),
        ("frames", pa.int32()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("fps_num", pa.int32()),
        ("fps_den", pa.int32()),
        ("start", pa.float64()),
        ("end", pa.float64()),
        ("segments", pa.list_(SEGMENT)),
        ("packet_bytes", pa.list_(pa.int32())),
        ("packet_crc32", pa.list_(pa.uint32())),
        ("packet_back", pa.list_(pa.uint8())),
    ]
)
PACKET_COLUMNS = ("packet_bytes", "packet_crc32", "packet_back")
_NUMBER_COLUMNS = tuple(
    field.name for field in SCHEMA if pa.types.is_integer(field.type) or pa.types.is_floating(field.type)
)


@dataclass(frozen=True, eq=False)
class VideoRow:
    """One video of an index.

    ``labels`` holds one class index for a single-label video, several for a multi-label one and none for an
    unlabelled one. ``offset`` is the first byte of the video's packets in its shard, and ``packet_offsets``
    says how far behind it each packet lies. ``packet_back[i]`` is how many packets back the reference of
    packet ``i`` lies, 0 for a keyframe. Times are seconds in the source.
    """

    key: str
    source: str
    labels: tuple[int, ...]
    shard: int
    offset: int
    size: int
    frames: int
    width: int
    height: int
    fps_num: int
    fps_den: int
    start: float
    end: float
    segments: tuple[tuple[int, float, float], ...]
    packet_bytes: np.ndarray
    packet_crc32: np.ndarray
    packet_back: np.ndarray

    @property
    def label(self) -> int:
        """The first label, or -1 for an unlabelled video."""
        return self.labels[0] if self.labels else -1

    def as_json(self, packets_crc32: int) -> bytes:
        """The row as it lies in the shard beside its packets (KEY.json).

        In place of the packets' columns it has ``crc32``: the CRC-32 of the packets' file and, after that, of this
        text as it is without ``crc32``.
        """
        row = {name: value for name, value in vars(self).items() if name not in PACKET_COLUMNS}
        return _as_line({**row, "crc32": zlib.crc32(_as_line(row), packets_crc32)})


def _as_line(row: dict[str, Any]) -> bytes:
    return (json.dumps(row, ensure_ascii=False, sort_keys=True) + "\n").encode()


def shard_name(shard: int) -> str:
    """File name of a shard inside its split's folder."""
    return f"shard-{shard:05d}.tar"


def packet_offsets(codec: str, sizes: np.ndarray) -> np.ndarray:
    """Where each packet of a video begins, in bytes after the video's ``offset``: int64, of the shape of ``sizes``.

    ``sizes`` are the packets' own bytes (``packet_bytes``), without the headers that IVF puts before them.
    """
    offsets: np.ndarray = np.cumsum(sizes, dtype=np.int64) - sizes
    if CODEC_SUFFIX[codec] == "ivf":
        offsets += IVF_HEADER + IVF_PACKET_HEADER * np.arange(1, len(sizes) + 1)
    return offsets


def as_record_batch(rows: Iterable[VideoRow]) -> pa.RecordBatch:
    """Rows as one Arrow record batch of ``SCHEMA``."""
    listed = list(rows)
    columns = []
    for field in SCHEMA:
        if field.name in PACKET_COLUMNS:
            arrays = [np.asarray(getattr(row, field.name)) for row in listed]
            ends = np.cumsum([0, *(len(a) for a in arrays)], dtype=np.int32)
            flat = np.concatenate(arrays) if arrays else np.empty(0)
            values = pa.array(flat.astype(field.type.value_type.to_pandas_dtype()))
            columns.append(pa.ListArray.from_arrays(pa.array(ends), values))
        elif field.name == "segments":
            as_dicts = [[dict(zip(("label", "start", "end"), s, strict=True)) for s in row.segments] for row in listed]
            columns.append(pa.array(as_dicts, field.type))
        else:
            columns.append(pa.array([getattr(row, field.name) for row in listed], field.type))
    return pa.record_batch(columns, schema=SCHEMA)


def write_index(path: Path, batches: Iterable[pa.RecordBatch], metadata: dict[str, Any]) -> int:
    """Write an index file and return its number of rows.

    The batches are cut anew so that every one but the last holds ``ROWS_PER_BATCH`` rows: a reader then finds
    any row by a division, whatever the number of videos. ``metadata`` goes into the schema as JSON under
    ``v4d``. The file appears under its name only when it is complete.
    """
    schema = SCHEMA.with_metadata({"v4d": json.dumps(metadata, sort_keys=True), "rows_per_batch": str(ROWS_PER_BATCH)})
    rows = 0
    with replace_atomically(path) as temporary, pa.OSFile(str(temporary), "wb") as sink:
        with pa.ipc.new_file(sink, schema) as writer:
            for batch in _rebatched(batches):
                writer.write_batch(batch.replace_schema_metadata(schema.metadata))
                rows += batch.num_rows
    return rows


def _rebatched(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    held: list[pa.RecordBatch] = []
    count = 0
    for batch in batches:
        while batch.num_rows:
            head = batch.slice(0, ROWS_PER_BATCH - count)
            held.append(head)
            count += head.num_rows
            batch = batch.slice(head.num_rows)
            if count == ROWS_PER_BATCH:
                yield pa.concat_batches(held)
                held, count = [], 0
    if held:
        yield pa.concat_batches(held)


@dataclass(frozen=True)
class _Lists:
    """A column of lists or of texts, read from the file: most of an index, and each row of it is far from the next."""

    file: IO[bytes]
    type: np.dtype[Any]
    ends: np.ndarray
    values_at: int

    def of(self, at: int) -> np.ndarray:
        return np.frombuffer(self.bytes_of(at), self.type)

    def bytes_of(self, at: int) -> bytes:
        first, size = self.ends.item(at), self.type.itemsize
        count = self.ends.item(at + 1) - first
        return os.pread(self.file.fileno(), count * size, self.values_at + first * size) if count else b""


class _Segments:
    """The column of segments; where a batch has none, nothing is asked of Arrow."""

    def __init__(self, column: pa.Array) -> None:
        self._column = column if len(column.flatten()) else None

    def of(self, at: int) -> tuple[tuple[int, float, float], ...]:
        if self._column is None:
            return ()
        return tuple((part["label"], part["start"], part["end"]) for part in self._column[at].as_py())


class Index:
    """The videos of one split, read from a memory-mapped ``index.arrow``.

    Opening reads the file's footer only. What a row touched of the map is given back to the kernel's cache soon after,
    so that memory does not grow with the rows that were read.
    """

    def __init__(self, path: Path) -> None:
        """Open ``path``. Raises DataError if it is missing or no index of this format."""
        self.path = path
        try:
            self._file = open(path, "rb")  # noqa: SIM115 - held as long as the index
            self._map = mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_READ)
            self._buffer = pa.py_buffer(self._map)
            self._reader = pa.ipc.open_file(self._buffer)
        except FileNotFoundError:
            raise DataError(f"{path} does not exist: preprocess this split first") from None
        except (pa.ArrowException, OSError, ValueError) as error:
            raise DataError(f"{path} is no Arrow index ({error}): preprocess again") from None
        metadata = self._reader.schema.metadata or {}
        if not self._reader.schema.equals(SCHEMA) or b"rows_per_batch" not in metadata:
            raise DataError(f"{path} has other columns than this version of v4d reads: preprocess again")
        self.metadata: dict[str, Any] = json.loads(metadata[b"v4d"])
        self._rows_per_batch = int(metadata[b"rows_per_batch"])
        batches = self._reader.num_record_batches
        last = self._reader.get_batch(batches - 1).num_rows if batches else 0
        self._len: int = max(0, batches - 1) * self._rows_per_batch + last
        self._batches: list[dict[str, Any] | None] = [None] * batches
        self._rows_read = 0

    def __len__(self) -> int:
        return self._len

    def __getitem__(self, row: int) -> VideoRow:
        """The row at a position, 0 to len - 1. Its packet arrays are read-only."""
        if not 0 <= row < self._len:
            raise IndexError(f"{self.path} has rows 0 to {self._len - 1}, not {row}")
        self._rows_read += 1
        if self._rows_read % _ROWS_BETWEEN_RELEASES == 0:
            # Views stay as they are: where one is used again, its page is mapped again.
            self._map.madvise(mmap.MADV_DONTNEED)
        number, at = divmod(row, self._rows_per_batch)
        columns = self._batches[number] = self._batches[number] or self._columns(number)
        return VideoRow(
            key=columns["key"].bytes_of(at).decode(),
            source=columns["source"].bytes_of(at).decode(),
            labels=tuple(columns["labels"].of(at).tolist()),
            segments=columns["segments"].of(at),
            **{name: columns[name].item(at) for name in _NUMBER_COLUMNS},
            **{name: columns[name].of(at) for name in PACKET_COLUMNS},
        )

    def _columns(self, number: int) -> dict[str, Any]:
        """The columns of a batch; numbers as NumPy views, of which a value costs a tenth of an Arrow scalar's time."""
        batch = self._reader.get_batch(number)
        columns: dict[str, Any] = dict(zip(batch.schema.names, batch.columns, strict=True))
        for name in _NUMBER_COLUMNS:
            columns[name] = columns[name].to_numpy(zero_copy_only=True)
        columns["segments"] = _Segments(columns["segments"])
        for name in ("key", "source", "labels", *PACKET_COLUMNS):
            column = columns[name]
            is_list = pa.types.is_list(column.type)
            type_ = np.dtype(column.type.value_type.to_pandas_dtype() if is_list else np.uint8)
            ends, values = column.buffers()[1], column.buffers()[-1]
            values_at = values.address - self._buffer.address if values else 0
            # A copy: so small a part of the file, used by every row.
            columns[name] = _Lists(self._file, type_, np.frombuffer(ends, np.int32).copy(), values_at)
        return columns

    def __iter__(self) -> Iterator[VideoRow]:
        return (self[i] for i in range(len(self)))

    def column(self, name: str) -> list[Any]:
        """One column of every row, as Python values."""
        batches = (self._reader.get_batch(i) for i in range(self._reader.num_record_batches))
        return [value for batch in batches for value in batch.column(name).to_pylist()]


@dataclass(frozen=True)
class Dataset:
    """What dataset.json says of a dataset; ``split`` opens an index.

    ``size`` is the width and height of every frame, or None where they differ from video to video. ``flip`` says
    what a horizontal flip makes of a class where that is another one, or -1 where it is none.
    """

    root: Path
    kind: str
    classes: tuple[str, ...]
    codec: str
    size: tuple[int, int] | None
    splits: dict[str, dict[str, Any]]
    options: dict[str, Any]
    flip: dict[int, int]
    fingerprint: str

    @property
    def name(self) -> str:
        return self.root.resolve().name

    def split(self, split: str) -> Index:
        """Open the index of a split. Raises DataError, with the splits there are, if there is no such split."""
        if split not in self.splits:
            raise DataError(f"{self.root} has no split '{split}': it has {', '.join(self.splits)}")
        index = Index(self.root / split / "index.arrow")
        if len(index) != self.splits[split]["videos"]:
            raise DataError(f"{index.path} has {len(index)} rows, dataset.json says {self.splits[split]['videos']}")
        return index


def read_index(root: Path | str, split: str) -> Index:
    """The videos of a split of the dataset in ``root``. Raises DataError if either is missing."""
    return read_dataset(root).split(split)


def read_dataset(root: Path | str) -> Dataset:
    """Read ``root``/dataset.json.

    Raises DataError if it is missing (no dataset, or one whose preprocessing has not finished), is no JSON, or
    was written for another version of the format.
    """
    root = Path(root)
    path = root / "dataset.json"
    try:
        text = path.read_bytes()
        content = json.loads(text)
        if content["format"] != FORMAT:
            found = content["format"]
            raise DataError(f"{path} has format {found}, this version of v4d reads {FORMAT}: preprocess again")
        return Dataset(
            root=root,
            kind=content["kind"],
            classes=tuple(content["classes"]),
            codec=content["codec"],
            size=tuple(content["size"]) if content["size"] else None,
            splits=dict(content["splits"]),
            options=dict(content["options"]),
            flip={int(i): int(other) for i, other in content.get("flip", {}).items()},
            fingerprint=hashlib.sha256(text).hexdigest(),
        )
    except FileNotFoundError:
        started = (root / ".building").exists()
        then = "its preprocessing has not finished: run the same command again" if started else "run v4d preprocess"
        raise DataError(f"{root} holds no dataset.json: {then}") from None
    except (KeyError, TypeError, ValueError):
        raise DataError(f"{path} is none of v4d's: preprocess into another folder") from None
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error}): preprocess again") from None
