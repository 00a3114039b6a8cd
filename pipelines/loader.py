"""The loaders that training and evaluation see: typed batches on a device, in DALI's own memory.

Shape suffixes: B videos, U action units of a video, T frames of a unit, C channels, H, W.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from pipelines.crops import SCALES, TRAIN_DRAWS, Crop, multiscale_crop, three_crops
from pipelines.graph import GraphInput, crop_graph
from pipelines.order import rank_share, rank_slice, steps_per_epoch, train_order
from pipelines.packets import PacketReader
from pipelines.randomness import Purpose, uniform
from pipelines.sampling import centred_units, fit_stride, random_units
from preprocess.errors import DataError
from preprocess.index import Dataset, Index, VideoRow

_BATCHES_READ_AHEAD = 3
_READERS = 4
_BATCHES_IN_USE = 4


@dataclass(frozen=True)
class Sampling:
    """What is taken from each video: ``units`` action units of ``frames`` frames, ``stride`` apart.

    ``fit_stride`` shortens the stride for videos whose sections are shorter than a unit; the sections are those of
    ``fit_to`` units, or of ``units`` if that is None. (A network is tested on more units than it was trained on,
    but should see motion at the speed it knows.) ``crop`` is the side of the square that comes out, in pixels;
    ``scales`` are those of the multi-scale crop in training.
    """

    units: int
    frames: int
    stride: int
    crop: int
    fit_stride: bool = False
    fit_to: int | None = None
    scales: tuple[float, ...] = SCALES

    def stride_for(self, row: VideoRow) -> int:
        """The stride for one video."""
        if not self.fit_stride:
            return self.stride
        return fit_stride(row.frames, self.fit_to or self.units, self.frames, self.stride)


@dataclass(frozen=True, eq=False)
class Batch:
    """B videos on a device.

    Each tensor of ``crops`` is uint8, (B·U, C, T, H, W) in channels_last_3d layout, 0 to 255, and shares DALI's
    memory: one in training; in evaluation three, or one where the three would be the same. ``labels_B`` (int64, CPU)
    is -1 for rows that fill up the last batch and for unlabelled videos; ``rows_B`` (int64, CPU) is the row in the
    index, -1 for rows that fill up.
    """

    crops: tuple[torch.Tensor, ...]
    labels_B: torch.Tensor
    rows_B: torch.Tensor

    @property
    def x(self) -> torch.Tensor:
        """The only crop of a training batch."""
        (only,) = self.crops
        return only


@dataclass(frozen=True)
class _Sample:
    """One video of a batch to come."""

    row: VideoRow
    number: int
    valid: bool
    frames: np.ndarray
    crops: tuple[Crop, ...]


class TrainLoader:
    """Endless batches of a split for training, the same for a (seed, global batch) on any number of ranks.

    Step ``s`` of the run is step ``s % steps_per_epoch`` of epoch ``s // steps_per_epoch``. Iterating begins at
    ``first_step``.
    """

    def __init__(
        self,
        dataset: Dataset,
        split: str,
        sampling: Sampling,
        *,
        global_batch: int,
        seed: int,
        device: torch.device,
        first_step: int = 0,
        rank: int = 0,
        ranks: int = 1,
        threads: int | None = None,
    ) -> None:
        """Open a split. Raises DataError if it is missing or empty, ValueError if ``ranks`` do not divide the batch."""
        self.index = dataset.split(split)
        if not len(self.index):
            raise DataError(f"the split '{split}' of {dataset.root} holds no video to train on")
        self.steps_per_epoch = steps_per_epoch(len(self.index), global_batch)
        self._sampling, self._seed, self._global_batch = sampling, seed, global_batch
        self._first_step, self._rank, self._ranks = first_step, rank, ranks
        self._decode = _Decoder(self.index, sampling, rank_share(global_batch, ranks), 1, True, device, threads)

    def __iter__(self) -> Iterator[Batch]:
        return self._decode(self._batches())

    def videos_in(self, step: int) -> int:
        """How many videos of the split the global batch of a step holds, without the rows that fill it up."""
        return min(self._global_batch, len(self.index) - step % self.steps_per_epoch * self._global_batch)

    def _batches(self) -> Iterator[list[_Sample]]:
        step, epoch, order = self._first_step, -1, np.empty(0, np.int64)
        while True:
            if step // self.steps_per_epoch != epoch:
                epoch = step // self.steps_per_epoch
                order = train_order(len(self.index), self._seed, epoch)
            at = step % self.steps_per_epoch
            rows, valid = rank_slice(order, at, self._global_batch, self._rank, self._ranks)
            yield [self._sample(epoch, int(r), bool(v)) for r, v in zip(rows, valid, strict=True)]
            step += 1

    def _sample(self, epoch: int, number: int, valid: bool) -> _Sample:
        row, take = self.index[number], self._sampling
        draws = uniform(self._seed, Purpose.UNITS, epoch, number, take.units)
        frames = random_units(row.frames, take.units, take.frames, take.stride_for(row), draws)
        draws = uniform(self._seed, Purpose.CROP, epoch, number, TRAIN_DRAWS)
        crop = multiscale_crop(row.width, row.height, draws, take.scales)
        return _Sample(row, number, valid, frames.ravel(), (crop,))


class EvalLoader:
    """Each video of a split once, in the order of the index, with centred units and three crops or the centre one."""

    def __init__(
        self,
        dataset: Dataset,
        split: str,
        sampling: Sampling,
        *,
        global_batch: int,
        device: torch.device,
        crops: Literal[1, 3] = 3,
        rank: int = 0,
        ranks: int = 1,
        threads: int | None = None,
    ) -> None:
        """Open a split. Raises DataError if there is none, ValueError if ``ranks`` do not divide the batch."""
        self.index = dataset.split(split)
        self._sampling, self._global_batch, self._rank, self._ranks = sampling, global_batch, rank, ranks
        # Of square frames the three crops are one and the same.
        is_square = dataset.size is not None and dataset.size[0] == dataset.size[1]
        self._crops = range(3) if crops == 3 and not is_square else range(1, 2)
        resize = dataset.size is None or min(dataset.size) != sampling.crop
        share = rank_share(global_batch, ranks)
        self._decode = _Decoder(self.index, sampling, share, len(self._crops), resize, device, threads)

    @property
    def crops(self) -> int:
        """How many crops of each video a batch holds."""
        return len(self._crops)

    def __len__(self) -> int:
        return steps_per_epoch(len(self.index), self._global_batch)

    def __iter__(self) -> Iterator[Batch]:
        return self._decode(self._batches())

    def _batches(self) -> Iterator[list[_Sample]]:
        order = np.arange(len(self.index))
        for step in range(len(self)):
            rows, valid = rank_slice(order, step, self._global_batch, self._rank, self._ranks)
            yield [self._sample(int(r), bool(v)) for r, v in zip(rows, valid, strict=True)]

    def _sample(self, number: int, valid: bool) -> _Sample:
        row, take = self.index[number], self._sampling
        frames = centred_units(row.frames, take.units, take.frames, take.stride_for(row))
        squares = three_crops(row.width, row.height)
        return _Sample(row, number, valid, frames.ravel(), tuple(squares[i] for i in self._crops))


class _Decoder:
    """Turns lists of samples into batches: threads read and check packets ahead, DALI decodes and crops."""

    def __init__(
        self,
        index: Index,
        sampling: Sampling,
        videos: int,
        crops: int,
        resize: bool,
        device: torch.device,
        threads: int | None,
    ) -> None:
        codec = index.metadata.get("codec", "mjpeg")
        if codec != "mjpeg":
            raise DataError(f"{index.path} holds packets of {codec}, which cannot be loaded yet: preprocess with mjpeg")
        self._reader, self._sampling = PacketReader(index.path.parent), sampling
        self._videos, self._crops, self._resize, self._device = videos, crops, resize, device
        self._threads = threads or min(8, os.cpu_count() or 1)

    def __call__(self, samples: Iterator[list[_Sample]]) -> Iterator[Batch]:
        planned: deque[list[_Sample]] = deque()
        with ThreadPoolExecutor(_READERS, "packets") as executor:
            graph = crop_graph(
                _read_ahead(samples, self._read, planned, executor),
                pictures=self._videos * self._sampling.units * self._sampling.frames,
                crops=self._crops,
                crop=self._sampling.crop,
                resize=self._resize,
                device=self._device,
                threads=self._threads,
            )
            # A GPU runs behind the host. A batch that its user has dropped is held until the GPU has done what the
            # user had queued by then; else DALI, on streams of its own, may write the next batch into its memory.
            in_use: deque[tuple[torch.cuda.Event, Batch]] = deque()
            try:
                while True:
                    try:
                        outputs = graph.run()
                    except StopIteration:
                        return
                    batch = self._batch(planned.popleft(), outputs)
                    yield batch
                    if self._device.type == "cuda":
                        queued = torch.cuda.Event()
                        queued.record(torch.cuda.current_stream(self._device))
                        in_use.append((queued, batch))
                        if len(in_use) > _BATCHES_IN_USE:
                            in_use[0][0].synchronize()
                        while in_use and in_use[0][0].query():
                            in_use.popleft()
            finally:
                executor.shutdown(wait=False, cancel_futures=True)
                # The last batches too: DALI's memory serves every pipeline on the device, not this one alone.
                if self._device.type == "cuda":
                    torch.cuda.synchronize(self._device)

    def _read(self, sample: _Sample) -> _Read:
        packets = self._reader.read(sample.row, sample.frames)
        corners = []
        for crop in sample.crops:
            left, right = (crop.x + crop.width, crop.x) if crop.flip else (crop.x, crop.x + crop.width)
            corners += [(crop.y, left), (crop.y + crop.height, right)]
        return packets, np.array(corners, np.float32)

    def _batch(self, samples: list[_Sample], outputs: tuple[object, ...]) -> Batch:
        rows = [sample.number if sample.valid else -1 for sample in samples]
        labels = [sample.row.label if sample.valid else -1 for sample in samples]
        take = self._sampling
        crops = []
        for output in outputs:
            pictures_NHWC = torch.from_dlpack(output.as_tensor())  # type: ignore[attr-defined]
            units_NTHWC = pictures_NHWC.unflatten(0, (self._videos * take.units, take.frames))
            crops.append(units_NTHWC.permute(0, 4, 1, 2, 3))
        return Batch(tuple(crops), torch.tensor(labels), torch.tensor(rows))


# The packets of one sample, and the two corners of each of its crops, (2·crops, 2) float32.
_Read = tuple[list[np.ndarray], np.ndarray]


def _read_ahead(
    samples: Iterator[list[_Sample]],
    read: Callable[[_Sample], _Read],
    planned: deque[list[_Sample]],
    executor: ThreadPoolExecutor,
) -> Callable[[], GraphInput]:
    """The graph's source: gives the next batch, and has the threads at work on those after it."""
    in_flight: deque[list[Future[_Read]]] = deque()

    def source() -> GraphInput:
        while len(in_flight) < _BATCHES_READ_AHEAD:
            batch = next(samples, None)
            if batch is None:
                break
            planned.append(batch)
            in_flight.append([executor.submit(read, sample) for sample in batch])
        if not in_flight:
            raise StopIteration
        parts = [future.result() for future in in_flight.popleft()]
        packets = [packet for part, _ in parts for packet in part]
        # As many corners as pictures: (2·crops, pictures, 2), each of them one array and not a list, which is
        # what DALI takes fastest.
        corners = np.stack([corner for _, corner in parts], axis=1).repeat(len(parts[0][0]), axis=1)
        return (packets, *corners)

    return source
