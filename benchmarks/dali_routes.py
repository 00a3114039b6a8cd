"""DALI's own routes from whole files to batches: its decoder on files that are handed to it, and its readers."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain, cycle, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nvidia.dali import Pipeline, fn, types

from benchmarks.same_batches import planned
from benchmarks.turns import Given, RouteFailed, Work
from pipelines.graph import dali_reason
from pipelines.samples import Sample
from preprocess.index import read_dataset

_BATCHES_AHEAD = 2
# A list is for as many videos per second of a turn, which is about what a reader comes to on a GPU.
_LISTED_PER_S = 100


@dataclass(frozen=True)
class DaliWholeFiles:
    """``fn.decoders.video(frames=)`` on a file for each row of the index, cropped and resized by our own operator."""

    name: str
    files: tuple[Path, ...]
    needs: tuple[str, ...] = ()
    at_a_time: int = 1

    def batches(self, work: Work) -> Iterator[Given]:
        batches = planned(read_dataset(work.data), work)

        def source() -> tuple[list[np.ndarray], ...]:
            samples = next(batches)
            start, end = _corners(samples, times=1)
            files = [np.fromfile(self.files[sample.row_number], np.uint8) for sample in samples]
            return files, [sample.frames.astype(np.int32) for sample in samples], start, end

        def pictures() -> tuple[Any, Any, Any]:
            kinds = [types.UINT8, types.INT32, types.FLOAT, types.FLOAT]
            file, frames, start, end = fn.external_source(source=source, num_outputs=4, batch=True, dtype=kinds, ndim=1)
            where = "cpu" if work.device == "cpu" else "mixed"
            return fn.decoders.video(file, frames=frames, device=where, pad_mode="none"), start, end

        return _run(work, work.batch, pictures)


@dataclass(frozen=True)
class DaliReader:
    """``fn.readers.video`` on a file for each row of the index, cropped and resized by our own operator.

    It decodes on a GPU alone; ``experimental`` takes ``fn.experimental.readers.video``, which decodes VP9 on the CPU
    too. Readers follow a list, given once: here of the action units of the planned batches, as many as a turn may come
    to, and from the first one again after them.
    """

    name: str
    files: tuple[Path, ...]
    experimental: bool
    needs: tuple[str, ...] = ()
    at_a_time: int = 1

    def batches(self, work: Work) -> Iterator[Given]:
        take = work.sampling
        count = max(2, math.ceil(work.seconds * _LISTED_PER_S / work.batch))
        listed = list(islice(planned(read_dataset(work.data), work), count))
        again = cycle(listed)

        def pictures() -> tuple[Any, Any, Any]:
            start, end = fn.external_source(
                source=lambda: _corners(next(again), take.units), num_outputs=2, batch=True, dtype=types.FLOAT, ndim=1
            )
            list_of: dict[str, Any] = {"file_list": str(file_list)}
            list_of |= {"sequence_length": take.frames, "stride": take.stride}
            if self.experimental:
                # Padding, or else it wants a whole stride behind the last frame; there is none that is padded.
                list_of |= {"file_list_format": "frames", "file_list_include_end": False, "pad_mode": "constant"}
                where = "cpu" if work.device == "cpu" else "gpu"
                units: Any = fn.experimental.readers.video(device=where, **list_of)
            else:
                units = fn.readers.video(device="gpu", file_list_frame_num=True, **list_of)
            # With the units come their labels.
            return units[0], start, end

        with tempfile.TemporaryDirectory() as folder:
            file_list = Path(folder) / "units.txt"
            file_list.write_text("".join(unit for samples in listed for unit in self._units(samples, work)))
            batches = _run(work, work.batch * take.units, pictures)
            # The list is read before the first batch comes.
            first = next(batches)
        return chain([first], batches)

    def _units(self, samples: list[Sample], work: Work) -> Iterator[str]:
        """The lines ``file label start end``, the end being the first frame that is not wanted."""
        take = work.sampling
        for sample in samples:
            file = self.files[sample.row_number].resolve()
            if any(letter.isspace() for letter in str(file)):
                raise RouteFailed(f"its lists take no path with a space in it: {file}")
            units = sample.frames.reshape(take.units, take.frames)
            if (np.diff(units) != take.stride).any():
                raise RouteFailed(f"it takes evenly spaced frames only, and '{sample.row.key}' is too short for that")
            for unit in units:
                yield f"{file} 0 {unit[0]} {unit[-1] + 1}\n"


def _corners(samples: list[Sample], times: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """The crops' starts and ends (y, x) for DALI, which mirrors where they are swapped along x; each so many times."""
    starts, ends = [], []
    for sample in samples:
        (crop,) = sample.crops
        left, right = crop.x, crop.x + crop.width
        if crop.flip:
            left, right = right, left
        starts += [np.array([crop.y, left], np.float32)] * times
        ends += [np.array([crop.y + crop.height, right], np.float32)] * times
    return starts, ends


def _run(work: Work, pieces: int, pictures: Callable[[], tuple[Any, Any, Any]]) -> Iterator[Given]:
    """The batches of a graph of ``pieces`` samples, which ``pictures`` defines: (F, H, W, C), and their crops' corners.

    Raises RouteFailed with DALI's reason.
    """
    size = (work.sampling.crop, work.sampling.crop)
    graph = Pipeline(
        batch_size=pieces,
        num_threads=work.threads,
        device_id=None if work.device == "cpu" else torch.device(work.device).index or 0,
        prefetch_queue_depth=_BATCHES_AHEAD,
    )
    try:
        with graph:
            whole, start, end = pictures()
            graph.set_outputs(
                fn.resize(whole, roi_start=start, roi_end=end, size=size, interp_type=types.INTERP_LINEAR)
            )
        graph.build()
        while True:
            (output,) = graph.run()
            yield Given(torch.utils.dlpack.from_dlpack(output.as_tensor()).flatten(0, 1), None)
    except RuntimeError as error:
        raise RouteFailed(f"DALI: {dali_reason(error)}") from None
