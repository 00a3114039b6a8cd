"""The routes from stored videos to batches: ours, and decoders of whole files; those of DALI are elsewhere."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from benchmarks.same_batches import SEED, planned
from benchmarks.turns import Given, RouteFailed, Work
from benchmarks.whole_files import DECODERS, NEEDS
from pipelines import TrainLoader
from pipelines.crops import Crop
from pipelines.samples import Sample
from preprocess.index import read_dataset

_BATCHES_AHEAD = 2


@dataclass(frozen=True)
class OurLoader:
    """``TrainLoader`` on a dataset, which may be another one than ``work.data`` with the same videos."""

    name: str
    data: Path
    needs: tuple[str, ...] = ()
    at_a_time: int = 1

    def batches(self, work: Work) -> Iterator[Given]:
        loader = TrainLoader(
            read_dataset(self.data),
            work.split,
            work.sampling,
            global_batch=work.batch,
            seed=SEED,
            device=torch.device(work.device),
            threads=work.threads,
        )
        for batch in loader:
            yield Given(batch.x.permute(0, 2, 3, 4, 1).flatten(0, 1), None)


@dataclass(frozen=True)
class WholeFiles:
    """One of ``DECODERS`` on a file for each row of the index, ``files[row]``, in worker processes or threads.

    The crop is scaled to the size of the file's pictures, cut out and resized by OpenCV (bilinear).
    """

    name: str
    decoder: str
    files: tuple[Path, ...]
    workers: Literal["processes", "threads"]
    at_a_time: int = 1

    @property
    def needs(self) -> tuple[str, ...]:
        return NEEDS[self.decoder]

    def batches(self, work: Work) -> Iterator[Given]:
        import cv2

        cv2.setNumThreads(1)
        torch.set_num_threads(1)
        batches = planned(read_dataset(work.data), work)
        loaded = self._by_processes(work, batches) if self.workers == "processes" else self._by_threads(work, batches)
        for pictures, decoded in loaded:
            yield Given(pictures.to(work.device), None if decoded < 0 else decoded)

    def _by_processes(self, work: Work, batches: Iterator[list[Sample]]) -> Iterator[tuple[torch.Tensor, int]]:
        """As most train: torch's DataLoader, a batch for each worker at a time."""
        load = _Load(self.decoder, self.files, work.sampling.crop)
        loader = torch.utils.data.DataLoader(
            load,
            batch_sampler=batches,
            num_workers=work.threads,
            collate_fn=_collated,
            prefetch_factor=_BATCHES_AHEAD,
            multiprocessing_context="fork",
        )
        try:
            yield from loader
        except Exception as error:
            # What torch says is the worker's traceback, which ends with what was raised.
            raise RouteFailed(str(error).strip().splitlines()[-1]) from None

    def _by_threads(self, work: Work, batches: Iterator[list[Sample]]) -> Iterator[tuple[torch.Tensor, int]]:
        load = _Load(self.decoder, self.files, work.sampling.crop)
        ahead: deque[list[Future[tuple[np.ndarray, int]]]] = deque()
        with ThreadPoolExecutor(work.threads) as threads:
            try:
                for samples in batches:
                    ahead.append([threads.submit(load.__getitem__, sample) for sample in samples])
                    if len(ahead) > _BATCHES_AHEAD:
                        yield _collated([future.result() for future in ahead.popleft()])
            finally:
                threads.shutdown(cancel_futures=True)


@dataclass(frozen=True)
class _Load(torch.utils.data.Dataset[tuple[np.ndarray, int]]):
    """A sample's crops from its file, uint8 (F, crop, crop, C), and how many frames were decoded (-1: unknown)."""

    decoder: str
    files: tuple[Path, ...]
    crop: int

    def __getitem__(self, sample: Sample) -> tuple[np.ndarray, int]:
        found = DECODERS[self.decoder](self.files[sample.row_number], sample.frames)
        cropped = np.empty((len(sample.frames), self.crop, self.crop, 3), np.uint8)
        for picture, out in zip(found.pictures, cropped, strict=True):
            _cut(picture, sample, out)
        return cropped, -1 if found.frames is None else found.frames


def _cut(picture: np.ndarray, sample: Sample, out: np.ndarray) -> None:
    import cv2

    height, width = picture.shape[:2]
    left, top, right, bottom = corners(sample.crops[0], width / sample.row.width, height / sample.row.height)
    cv2.resize(picture[top:bottom, left:right], out.shape[:2], dst=out, interpolation=cv2.INTER_LINEAR)
    if sample.crops[0].flip:
        cv2.flip(out, 1, dst=out)


def corners(crop: Crop, across: float, down: float) -> tuple[int, int, int, int]:
    """A crop in pictures so many times as wide and high: left, top, right, bottom, in whole pixels."""
    right, bottom = crop.x + crop.width, crop.y + crop.height
    return round(crop.x * across), round(crop.y * down), round(right * across), round(bottom * down)


def _collated(samples: list[tuple[np.ndarray, int]]) -> tuple[torch.Tensor, int]:
    decoded = [frames for _, frames in samples]
    return torch.from_numpy(np.concatenate([pictures for pictures, _ in samples])), -1 if -1 in decoded else sum(
        decoded
    )
