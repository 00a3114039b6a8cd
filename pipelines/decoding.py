"""From checked packets to crops: how a batch is fed to a DALI graph, and what is made of what comes out.

Shape suffixes: B videos, U action units of a video, T frames of a unit, F = U·T, C channels, H, W.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future
from functools import partial
from itertools import groupby
from typing import Any, Protocol

import numpy as np
import torch
from nvidia.dali import Pipeline
from torch import Tensor
from torch.utils.dlpack import from_dlpack

from pipelines.crop_pictures import cut_crop
from pipelines.graph import GraphInput, as_pieces, crop_graph, picture_graph
from pipelines.jpeg import can_be_joined, coded_rows, joined_pictures, pictures_in_one
from pipelines.packets import VideoPackets, clip_stream
from pipelines.picture_memory import PictureMemory
from pipelines.samples import Sample, Sampling

# A decoder on a GPU takes 8 ms to open, for each stream; and that many work side by side.
_STREAMS_ON_A_GPU = 8

# One place of a batch, and its packets.
Loaded = tuple[Sample, VideoPackets]
# Gives the crops of a batch, each (B·U, C, T, H, W) uint8, channels_last_3d, once they are cut. On a GPU it must live
# until the GPU has cut them.
Crops = Callable[[], tuple[Tensor, ...]]


class Decoding(Protocol):
    """One way from packets to crops."""

    def graph(self, source: Callable[[], GraphInput]) -> Pipeline:
        """Build the graph that ``source`` feeds."""
        ...

    def inputs(self, batch: Sequence[Loaded]) -> GraphInput:
        """What the graph takes for a batch."""
        ...

    def crops(self, batch: Sequence[Loaded], outputs: tuple[Any, ...]) -> Crops:
        """The crops of a batch, of what the graph made of it."""
        ...


class CropsInGraph:
    """JPEGs on a GPU: decoded, cut and resized by one graph, whose memory the crops share.

    The pictures of a video are joined where they have one head, for what a JPEG costs on a GPU is mostly a price per
    JPEG: on an H100 a batch came out five times as fast. ``size`` is the largest width and height of a picture; with
    ``padded`` there may be heights that are no multiple of a block's.
    """

    def __init__(
        self,
        sampling: Sampling,
        videos: int,
        crops: int,
        resize: bool,
        size: tuple[int, int],
        padded: bool,
        device: torch.device,
        threads: int,
        ahead: int,
    ) -> None:
        self._sampling, self._videos, self._crops, self._resize = sampling, videos, crops, resize
        self._device, self._threads, self._ahead = device, threads, ahead
        self._frames = sampling.units * sampling.frames
        self._in_one = pictures_in_one(videos, self._frames, size)
        self._padded = padded and self._in_one > 1

    def graph(self, source: Callable[[], GraphInput]) -> Pipeline:
        """See Decoding."""
        return crop_graph(
            source,
            pieces=self._videos * self._frames,
            crops=self._crops,
            crop=self._sampling.crop,
            resize=self._resize,
            padded=self._padded,
            device=self._device,
            threads=self._threads,
            ahead=self._ahead,
        )

    def inputs(self, batch: Sequence[Loaded]) -> GraphInput:
        """See Decoding: pictures, joined if those of every video can be, and the corners of their crops."""
        in_one = self._in_one if all(can_be_joined(packets.head) for _, packets in batch) else 1
        jpegs, shapes, rows, corners = [], [], [], []
        for sample, packets in batch:
            width, height = packets.row.width, packets.row.height
            pictures = [packets.packets[i] for i in packets.take.tolist()]
            if in_one > 1:
                groups = (pictures[i : i + in_one] for i in range(0, len(pictures), in_one))
                pictures = [joined_pictures(packets.head, group, width, height) for group in groups]
            jpegs += pictures
            shapes.append((in_one, coded_rows(height) if in_one > 1 else height, width, 3))
            rows.append((height,))
            of_sample = []
            for crop in sample.crops:
                left, right = (crop.x + crop.width, crop.x) if crop.flip else (crop.x, crop.x + crop.width)
                of_sample += [(crop.y, left), (crop.y + crop.height, right)]
            corners.append(of_sample)
        # As many as there are pieces: each of them one array and not a list, which is what DALI takes fastest.
        pieces = self._frames // in_one
        as_array = np.array(corners, np.float32).transpose(1, 0, 2)
        about = [np.array(numbers, np.int32).repeat(pieces, axis=0) for numbers in (shapes, rows)]
        return (as_pieces(jpegs), *about[: 1 + self._padded], *as_array.repeat(pieces, axis=1))

    def crops(self, batch: Sequence[Loaded], outputs: tuple[Any, ...]) -> Crops:
        """See Decoding."""
        units, frames = len(batch) * self._sampling.units, self._sampling.frames
        made = tuple(_as_clips(from_dlpack(output.as_tensor()).flatten(0, 1), units, frames) for output in outputs)
        return lambda: made


class CropsOfPictures:
    """Whole pictures from the graph, which the threads of ``executor`` cut: on a CPU, and clip streams on a GPU.

    On a CPU there is a stream for each video. On a GPU the clips of a batch lie in a few streams.
    """

    def __init__(
        self,
        codec: str,
        sampling: Sampling,
        videos: int,
        crops: int,
        device: torch.device,
        threads: int,
        ahead: int,
        executor: Executor,
    ) -> None:
        self._codec, self._sampling, self._videos, self._crops = codec, sampling, videos, crops
        self._device, self._threads, self._ahead, self._executor = device, threads, ahead, executor
        self._shape = (videos, sampling.units * sampling.frames, sampling.crop, sampling.crop, 3)
        self._memory = PictureMemory(self._shape)
        self._most_streams = _STREAMS_ON_A_GPU if device.type == "cuda" else videos

    def graph(self, source: Callable[[], GraphInput]) -> Pipeline:
        """See Decoding."""
        frames = self._sampling.units * self._sampling.frames
        pieces = self._videos * frames if self._codec == "mjpeg" else self._videos
        on = partial(picture_graph, device=self._device, threads=self._threads, ahead=self._ahead)
        return on(source, codec=self._codec, pieces=pieces)

    def inputs(self, batch: Sequence[Loaded]) -> GraphInput:
        """See Decoding."""
        if self._codec == "mjpeg":
            return (as_pieces(packet for _, packets in batch for packet in packets.packets),)
        streams = [clip_stream(self._codec, [batch[at][1] for at in places]) for places in self._streams(batch)]
        return as_pieces(stream for stream, _ in streams), as_pieces(positions for _, positions in streams)

    def crops(self, batch: Sequence[Loaded], outputs: tuple[Any, ...]) -> Crops:
        """See Decoding."""
        pictures = self._pictures(batch, outputs[0])
        made_BFHWC = [self._empty() for _ in range(self._crops)]

        def cut(at: int) -> None:
            sample, packets = batch[at]
            in_order = np.array_equal(packets.take, np.arange(len(packets.positions)))
            wanted = None if in_order else torch.from_numpy(packets.take).to(self._device)
            for crop, out_BFHWC in zip(sample.crops, made_BFHWC, strict=True):
                cut_crop(pictures[at], wanted, crop, out_BFHWC[at])

        # A GPU's work is queued by this thread, whose stream its reader waits for. It reads ``pictures`` later.
        on_gpu = self._device.type == "cuda"
        cuts: list[Future[None]] = []
        for at in range(len(batch)):
            if on_gpu:
                cut(at)
            else:
                cuts.append(self._executor.submit(cut, at))

        return partial(self._cut, cuts, made_BFHWC, pictures if on_gpu else None)

    def _cut(self, cuts: list[Future[None]], made_BFHWC: list[Tensor], held: list[Tensor] | None) -> tuple[Tensor, ...]:
        """Wait for the cuts. ``held`` is not used: it lives as long as what holds this call."""
        for done in cuts:
            done.result()
        frames = self._sampling.frames
        return tuple(
            _as_clips(made.flatten(0, 1), made.shape[0] * made.shape[1] // frames, frames) for made in made_BFHWC
        )

    def _empty(self) -> Tensor:
        if self._device.type == "cpu":
            return self._memory.tensor()
        return torch.empty(self._shape, dtype=torch.uint8, device=self._device)

    def _streams(self, batch: Sequence[Loaded]) -> list[list[int]]:
        """Which clips of a batch, by their places in it, lie in one stream: all of one size."""

        def size(place: int) -> tuple[int, int]:
            row = batch[place][1].row
            return row.width, row.height

        most = -(-len(batch) // self._most_streams)
        streams = []
        for _, group in groupby(sorted(range(len(batch)), key=size), size):
            of_one_size = list(group)
            streams += [of_one_size[i : i + most] for i in range(0, len(of_one_size), most)]
        return streams

    def _pictures(self, batch: Sequence[Loaded], output: Any) -> list[Tensor]:
        """The decoded pictures of each video, (pictures, H, W, C), in the graph's memory."""
        if self._codec != "mjpeg":
            by_place: dict[int, Tensor] = {}
            for number, places in enumerate(self._streams(batch)):
                clips = from_dlpack(output[number]).split([len(batch[at][1].positions) for at in places])
                by_place |= zip(places, clips, strict=True)
            return [by_place[at] for at in range(len(batch))]
        counts = [len(packets.positions) for _, packets in batch]
        if output.is_dense_tensor():
            return list(from_dlpack(output.as_tensor()).split(counts))
        singles = iter(from_dlpack(output[i]) for i in range(len(output)))
        return [torch.stack([next(singles) for _ in range(count)]) for count in counts]


def _as_clips(pictures_NHWC: Tensor, units: int, frames: int) -> Tensor:
    """(B·U·T, H, W, C) as (B·U, C, T, H, W), which is channels_last_3d without a copy."""
    return pictures_NHWC.view(units, frames, *pictures_NHWC.shape[1:]).permute(0, 4, 1, 2, 3)
