"""All of a long video: action units at an even rate from its start to its end, in chunks that fit into memory.

Shape suffixes: V videos of the index.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Literal, NamedTuple

import numpy as np

from pipelines.bad_videos import BadVideos
from pipelines.order import rank_slice, stand_in, steps_per_epoch
from pipelines.samples import Place, Sample, Sampling, crop_count, crops_in_test
from pipelines.sampling import centred_units
from pipelines.segments import read_durations
from preprocess.errors import DataError
from preprocess.index import Dataset

# Of a video whose times nobody knows.
_FRAMES_PER_SECOND = 25


class UnitChunk(NamedTuple):
    """Units ``first`` to ``first + length - 1`` of the ``units`` that are taken of the video in row ``row_number``."""

    row_number: int
    first: int
    length: int
    units: int

    @property
    def is_last(self) -> bool:
        """Whether the video ends with it."""
        return self.first + self.length == self.units


class ChunkSamples:
    """The chunks of some videos one after the other, as samples of a loader; see UntrimmedLoader.

    A sample has the frames of ``sampling.units`` units. The chunks of a video are of near-equal length; one of fewer
    units repeats its last.
    """

    def __init__(
        self,
        dataset: Dataset,
        split: str,
        sampling: Sampling,
        units_per_second: float,
        least_units: int,
        batch: int,
        crops: Literal[1, 3, 5],
    ) -> None:
        """Open a split, and plan all of its videos. Raises DataError if it is missing or empty."""
        self.index = dataset.split(split)
        if not len(self.index):
            raise DataError(f"the split '{split}' of {dataset.root} holds no video")
        frames_V, seconds_V = read_durations(self.index)
        seconds_V = np.where(np.isnan(seconds_V), frames_V / _FRAMES_PER_SECOND, seconds_V)
        wanted_V = np.minimum(np.floor(seconds_V * units_per_second + 0.5), frames_V)
        self._units_V = np.maximum(wanted_V, least_units).astype(np.int64)
        self._chunks_V = -(-self._units_V // sampling.units)
        self._ends_V = np.cumsum(self._chunks_V)
        self._sampling, self._batch = sampling, batch
        self.crops = crop_count(dataset, crops)
        self.take(range(len(self.index)))

    def take(self, rows: Sequence[int]) -> None:
        """Let the videos in these rows of the index come alone, in this order."""
        ends_of = self._ends_V[np.array(rows, np.int64)].tolist()
        chunks_of = self._chunks_V[np.array(rows, np.int64)].tolist()
        ranges = [np.arange(end - chunks, end) for end, chunks in zip(ends_of, chunks_of, strict=True)]
        self._order = np.concatenate([*ranges, np.zeros(0, np.int64)])
        self.steps_per_epoch = steps_per_epoch(len(self._order), self._batch)

    def __len__(self) -> int:
        """How many chunks the split has."""
        return int(self._ends_V[-1])

    def chunk(self, number: int) -> UnitChunk:
        """What the sample of a number is."""
        row_number = int(np.searchsorted(self._ends_V, number, side="right"))
        units, chunks = int(self._units_V[row_number]), int(self._chunks_V[row_number])
        at = number - (int(self._ends_V[row_number]) - chunks)
        first, beyond = at * units // chunks, (at + 1) * units // chunks
        return UnitChunk(row_number, first, beyond - first, units)

    def batches(self, first_step: int) -> Iterator[list[Place]]:
        """The batches from a step on."""
        for step in range(first_step, self.steps_per_epoch):
            numbers, valid = rank_slice(self._order, step, self._batch, 0, 1)
            yield [Place(0, int(n), bool(v)) for n, v in zip(numbers, valid, strict=True)]

    def instead_of(self, place: Place) -> Place:
        """A chunk from elsewhere, most likely of another video."""
        return Place(0, stand_in(place.number, len(self)), False)

    def sample(self, place: Place) -> Sample:
        """See Samples."""
        chunk, take = self.chunk(place.number), self._sampling
        row = self.index[chunk.row_number]
        which = np.minimum(np.arange(take.units), chunk.length - 1) + chunk.first
        frames = centred_units(row.frames, chunk.units, take.frames, take.stride_for(row.frames), which)
        return Sample(place, row, chunk.row_number, row.labels, frames.ravel(), crops_in_test(row, self.crops))


class BadVideosOfChunks(BadVideos):
    """Counts videos where the samples are chunks of them: one with a bad chunk or more counts once."""

    def __init__(self, limit: float, videos: int, video_of: Callable[[int], int]) -> None:
        """``video_of`` gives the video of a chunk by their numbers. Raises ValueError if ``limit`` is no share."""
        super().__init__(limit, videos)
        self._video_of = video_of

    def add(self, number: int, key: str, why: Exception) -> None:
        """Count the video of chunk ``number``. Raises DataError if they are too many now."""
        super().add(self._video_of(number), key, why)
