"""The segments of untrimmed videos as frames: what each sample of a split is, where its samples are segments."""

from __future__ import annotations

import mmap
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from preprocess.index import Index

_TIMES = ("frames", "fps_num", "fps_den", "start", "end")
_COLUMNS = (*_TIMES, "segments")
# A frame at 0.1 s is in a segment that begins at 0.1 s, although these are no tenths but what is nearest in binary.
_OF_A_FRAME = 1e-6


class Segment(NamedTuple):
    """Frames ``first`` to ``first + frames - 1`` of the video in row ``row_number``, and what they show.

    ``frames`` is 0 where the segment is the whole video, as it is labelled.
    """

    row_number: int
    label: int
    first: int
    frames: int


@dataclass(frozen=True, eq=False)
class Segments:
    """The segments of a split in the order of its index. Each array is (segments,) int64."""

    row_numbers: np.ndarray
    labels: np.ndarray
    first: np.ndarray
    frames: np.ndarray

    def __len__(self) -> int:
        return len(self.row_numbers)

    def __getitem__(self, number: int) -> Segment:
        return Segment(*(int(of[number]) for of in (self.row_numbers, self.labels, self.first, self.frames)))


def read_segments(index: Index) -> Segments:
    """The segments of all videos of an index; a video that has none is one segment, the whole.

    A segment holds the frames that are shown at its start or later and before its end, clamped to the video; where
    that is none, the one frame that is on the screen at its start. Frame k is shown k / fps seconds after the row's
    ``start``. The rate of a source whose frame rate varies is a mean, or what its container claims: where so many
    frames at that rate do not fill the row's time, they are taken to lie evenly in it.

    Only the columns that are needed are read, none as Python objects.
    """
    table = _columns(index.path, _COLUMNS)
    frames, start = (table[name].to_numpy() for name in ("frames", "start"))
    segments = table["segments"].combine_chunks()
    lengths = pc.list_value_length(segments).to_numpy()
    labels, begins, ends = (values.to_numpy() for values in segments.flatten().flatten())

    row_numbers = np.repeat(np.arange(len(lengths)), np.maximum(lengths, 1))
    is_segment = lengths[row_numbers] > 0
    of_S = row_numbers[is_segment]
    seconds = _seconds_of_a_frame(table, index)
    is_timed = ~np.isnan(seconds)
    from_frame, to_frame = ((times - start[of_S]) / seconds[of_S] for times in (begins, ends))
    last = frames[of_S] - 1
    # A video that nobody knows the times of has all its frames in each of its segments.
    from_frame, to_frame = np.where(is_timed[of_S], (from_frame, to_frame), (np.zeros(len(of_S)), frames[of_S]))
    first = np.clip(np.ceil(from_frame - _OF_A_FRAME), 0, last)
    beyond = np.clip(np.ceil(to_frame - _OF_A_FRAME), 0, last + 1)
    first = np.where(beyond <= first, np.clip(np.floor(from_frame + _OF_A_FRAME), 0, last), first)
    beyond = np.maximum(beyond, first + 1)

    def spread(values: np.ndarray) -> np.ndarray:
        whole = np.zeros(len(row_numbers), np.int64)
        whole[is_segment] = values
        return whole

    return Segments(row_numbers, spread(labels), spread(first), spread(beyond - first))


def read_durations(index: Index) -> tuple[np.ndarray, np.ndarray]:
    """How many frames each video of an index has, and for how many seconds they are shown.

    Both (videos,), int64 and float64; NaN seconds where nobody knows the times of a video. A frame is shown for as long
    as ``read_segments`` takes it to be.
    """
    table = _columns(index.path, _TIMES)
    frames = table["frames"].to_numpy().astype(np.int64)
    return frames, frames * _seconds_of_a_frame(table, index)


def _seconds_of_a_frame(table: pa.Table, index: Index) -> np.ndarray:
    """For how long a frame of each video is shown, (videos,) float64, NaN where nobody knows."""
    frames, fps_num, fps_den, start, end = (table[name].to_numpy() for name in _TIMES)
    with np.errstate(divide="ignore", invalid="ignore"):
        at_rate, evenly = fps_den / fps_num, (end - start) / frames
        # Without the last frame's time, which some containers do not tell, or a part of one more.
        fills_the_time = np.abs(frames * at_rate - (end - start)) <= 1.5 * at_rate
        is_rate = (fps_num > 0) & (fills_the_time | (index.metadata.get("fps") is not None))
        seconds = np.where(is_rate, at_rate, evenly)
        return np.where(np.isfinite(seconds) & (seconds > 0), seconds, np.nan)


def _columns(path: Path, names: tuple[str, ...]) -> pa.Table:
    """Views of the file: from a buffer, what is not used is not read. (Arrow's own memory map reads it all.)"""
    with open(path, "rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    reader = pa.ipc.open_file(pa.py_buffer(mapped))
    schema = pa.schema([reader.schema.field(name) for name in names])
    return pa.Table.from_batches([reader.get_batch(i).select(names) for i in range(reader.num_record_batches)], schema)
