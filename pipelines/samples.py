"""What is taken from which video: the plan of every batch, a pure function of dataset, options, seed and step."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, NamedTuple, Protocol

import numpy as np

from pipelines.crops import SCALES, TRAIN_DRAWS, Crop, five_crops, multiscale_crop, three_crops
from pipelines.order import rank_share, rank_slice, stand_in, steps_per_epoch, train_order
from pipelines.randomness import Purpose, uniform
from pipelines.sampling import centred_units, even_clips, fit_stride, random_units
from pipelines.segments import Segment, read_segments
from preprocess.errors import DataError
from preprocess.index import Dataset, Index, VideoRow


@dataclass(frozen=True)
class Sampling:
    """What is taken from each video: ``units`` action units of ``frames`` frames, ``stride`` apart.

    ``fit_stride`` shortens the stride for videos whose sections are shorter than a unit; the sections are those of
    ``fit_to`` units, or of ``units`` if that is None. (A network is tested on more units than it was trained on,
    but should see motion at the speed it knows.) ``crop`` is the side of the square that comes out, in pixels;
    ``scales`` are those of the multi-scale crop in training. ``over`` says what a sample is: a video, or with
    "segment" each segment of an untrimmed one, with its own label; units then lie in the segment alone. With
    ``keyframe_starts`` units start on keyframes in training: see ``random_units``. In test ``clips``, which divides
    ``units``, says that these lie in so many clips at even distances, in each one behind the other: see ``even_clips``.
    """

    units: int
    frames: int
    stride: int
    crop: int
    fit_stride: bool = False
    fit_to: int | None = None
    scales: tuple[float, ...] = SCALES
    over: Literal["video", "segment"] = "video"
    keyframe_starts: bool = False
    clips: int | None = None

    def stride_for(self, frames: int) -> int:
        """The stride for a sample of so many frames."""
        if not self.fit_stride:
            return self.stride
        return fit_stride(frames, self.fit_to or self.units, self.frames, self.stride)


class Place(NamedTuple):
    """One place in a batch: sample ``number`` of a split, as it is seen in an epoch.

    What is not ``valid`` fills up a batch, so that the network sees real pictures, and counts in no loss and no metric.
    """

    epoch: int
    number: int
    valid: bool


@dataclass(frozen=True, eq=False)
class Sample:
    """What comes to a place: frames (units·frames,) of a video, and their crops.

    ``row_number`` is the video's in the index; the sample has another number where samples are segments. ``labels``
    are those of what the crops show, none for an unlabelled video.
    """

    place: Place
    row: VideoRow
    row_number: int
    labels: tuple[int, ...]
    frames: np.ndarray
    crops: tuple[Crop, ...]

    @property
    def label(self) -> int:
        """The first label, or -1."""
        return self.labels[0] if self.labels else -1


class Samples(Protocol):
    """The plan of one rank: what a loader loads."""

    index: Index
    steps_per_epoch: int
    crops: int

    def __len__(self) -> int:
        """How many samples the split has, over all ranks."""
        ...

    def batches(self, first_step: int) -> Iterator[list[Place]]:
        """The batches from a step on."""
        ...

    def sample(self, place: Place) -> Sample:
        """What comes to a place. Safe to call from several threads."""
        ...

    def instead_of(self, place: Place) -> Place:
        """Where to look for what fills a place whose own sample cannot be loaded; the same on any number of ranks."""
        ...


class _Taken:
    """What each sample of a split is, by its number: a whole video, or a segment of one."""

    def __init__(self, index: Index, sampling: Sampling) -> None:
        self._index = index
        self._segments = read_segments(index) if sampling.over == "segment" else None

    def __len__(self) -> int:
        return len(self._index if self._segments is None else self._segments)

    def __getitem__(self, number: int) -> tuple[VideoRow, Segment, tuple[int, ...]]:
        """The video of a sample, the part of it, whose ``frames`` is never 0, and its labels."""
        part = Segment(number, -1, 0, 0) if self._segments is None else self._segments[number]
        row = self._index[part.row_number]
        if part.frames:
            return row, part, (part.label,)
        return row, part._replace(label=row.label, frames=row.frames), row.labels


class TrainSamples:
    """Endless batches of a split for training; see TrainLoader."""

    crops = 1

    def __init__(
        self, dataset: Dataset, split: str, sampling: Sampling, global_batch: int, seed: int, rank: int, ranks: int
    ) -> None:
        """Open a split. Raises DataError if it is missing or empty, ValueError if ``ranks`` do not divide the batch."""
        rank_share(global_batch, ranks)
        self.index = dataset.split(split)
        if not len(self.index):
            raise DataError(f"the split '{split}' of {dataset.root} holds no video to train on")
        self._taken = _Taken(self.index, sampling)
        self.steps_per_epoch = steps_per_epoch(len(self), global_batch)
        self._flip = dataset.flip
        self._sampling, self._seed = sampling, seed
        self._global_batch, self._rank, self._ranks = global_batch, rank, ranks
        self._order = lru_cache(maxsize=2)(lambda epoch: train_order(len(self), seed, epoch))

    def __len__(self) -> int:
        """See Samples."""
        return len(self._taken)

    def batches(self, first_step: int) -> Iterator[list[Place]]:
        """The batches from a step of the run on; a step is ``epoch * steps_per_epoch`` and a step of the epoch."""
        step = first_step
        while True:
            epoch, at = divmod(step, self.steps_per_epoch)
            numbers, valid = rank_slice(self._order(epoch), at, self._global_batch, self._rank, self._ranks)
            yield [Place(epoch, int(n), bool(v)) for n, v in zip(numbers, valid, strict=True)]
            step += 1

    def instead_of(self, place: Place) -> Place:
        """A sample from elsewhere in the index, as it is seen in the same epoch."""
        return Place(place.epoch, stand_in(place.number, len(self)), False)

    def sample(self, place: Place) -> Sample:
        """See Samples."""
        epoch, number, _ = place
        (row, part, labels), take = self._taken[number], self._sampling
        draws = uniform(self._seed, Purpose.UNITS, epoch, number, take.units)
        keyframes = None
        if take.keyframe_starts:
            keyframes = np.flatnonzero(row.packet_back[part.first : part.first + part.frames] == 0)
        stride = take.stride_for(part.frames)
        frames = part.first + random_units(part.frames, take.units, take.frames, stride, draws, keyframes)
        draws = uniform(self._seed, Purpose.CROP, epoch, number, TRAIN_DRAWS)
        crop = multiscale_crop(row.width, row.height, draws, take.scales)
        if crop.flip:
            # A class that names a direction: the flipped video shows another one, or (-1) none that there is.
            flipped = tuple(self._flip.get(label, label) for label in labels)
            if any(now < 0 <= label for now, label in zip(flipped, labels, strict=True)):
                crop = crop._replace(flip=False)
            else:
                labels = flipped
        return Sample(place, row, part.row_number, labels, frames.ravel(), (crop,))


class EvalSamples:
    """Each sample of a split once, in the order of the index; see EvalLoader."""

    def __init__(
        self,
        dataset: Dataset,
        split: str,
        sampling: Sampling,
        global_batch: int,
        crops: Literal[1, 3, 5],
        rank: int,
        ranks: int,
    ) -> None:
        """Open a split. Raises DataError if it is missing or empty, ValueError if ``ranks`` do not divide the batch."""
        rank_share(global_batch, ranks)
        self.index = dataset.split(split)
        if not len(self.index):
            raise DataError(f"the split '{split}' of {dataset.root} holds no video")
        self._taken = _Taken(self.index, sampling)
        self.steps_per_epoch = steps_per_epoch(len(self), global_batch)
        # Which batches come, by their numbers.
        self.steps: Sequence[int] = range(self.steps_per_epoch)
        self._sampling, self._global_batch, self._rank, self._ranks = sampling, global_batch, rank, ranks
        # Of square frames the three crops are one and the same.
        is_square = dataset.size is not None and dataset.size[0] == dataset.size[1]
        self.crops: int = 1 if crops == 3 and is_square else crops

    def __len__(self) -> int:
        """See Samples."""
        return len(self._taken)

    def batches(self, first_step: int) -> Iterator[list[Place]]:
        """The batches from a step on."""
        order = np.arange(len(self))
        for step in self.steps[first_step:]:
            numbers, valid = rank_slice(order, step, self._global_batch, self._rank, self._ranks)
            yield [Place(0, int(n), bool(v)) for n, v in zip(numbers, valid, strict=True)]

    def instead_of(self, place: Place) -> Place:
        """A sample from elsewhere in the index."""
        return Place(0, stand_in(place.number, len(self)), False)

    def sample(self, place: Place) -> Sample:
        """See Samples."""
        (row, part, labels), take = self._taken[place.number], self._sampling
        stride = take.stride_for(part.frames)
        if take.clips:
            clip_frames = take.units // take.clips * take.frames
            frames = part.first + even_clips(part.frames, take.clips, clip_frames, stride)
        else:
            frames = part.first + centred_units(part.frames, take.units, take.frames, stride)
        squares = five_crops(row.width, row.height) if self.crops == 5 else three_crops(row.width, row.height)
        crops = squares[1:2] if self.crops == 1 else squares
        return Sample(place, row, part.row_number, labels, frames.ravel(), crops)
