"""What a step of training takes of which videos, and what that costs a reader of packets: pure functions."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from pipelines import Sampling
from pipelines.crops import TRAIN_DRAWS, Crop, multiscale_crop
from pipelines.order import rank_slice, steps_per_epoch, train_order
from pipelines.randomness import Purpose, uniform
from pipelines.sampling import random_units
from preprocess.index import Index, VideoRow

SEED = 0


@dataclass(frozen=True, eq=False)
class Clip:
    """One video of a batch: its row in the index, its frames in the order of the batch, (F,), and its crop."""

    number: int
    row: VideoRow
    frames: np.ndarray
    crop: Crop


@dataclass(frozen=True)
class PacketCost:
    """Means over the clips of an epoch: frames decoded per frame used, bytes read and stored per video."""

    decoded_per_used: float
    bytes_read: float
    bytes_stored: float


def batches(index: Index, sampling: Sampling, batch: int) -> Iterator[list[Clip]]:
    """What ``TrainLoader`` takes, batch after batch without end, with the seed ``SEED`` on one rank."""
    epoch = 0
    while True:
        order = train_order(len(index), SEED, epoch)
        for step in range(steps_per_epoch(len(index), batch)):
            numbers, _ = rank_slice(order, step, batch, 0, 1)
            yield [_clip(index, sampling, number, epoch) for number in numbers.tolist()]
        epoch += 1


def _clip(index: Index, sampling: Sampling, number: int, epoch: int) -> Clip:
    row = index[number]
    draws = uniform(SEED, Purpose.UNITS, epoch, number, sampling.units)
    frames = random_units(row.frames, sampling.units, sampling.frames, sampling.stride_for(row), draws)
    draws = uniform(SEED, Purpose.CROP, epoch, number, TRAIN_DRAWS)
    return Clip(number, row, frames.ravel(), multiscale_crop(row.width, row.height, draws, sampling.scales))


def packet_cost(index: Index, sampling: Sampling) -> PacketCost:
    """What the first epoch costs. Two of the batch's frames that are one frame of the video count once."""
    decoded, used, read, stored = 0, 0, 0, 0
    for number in range(len(index)):
        clip = _clip(index, sampling, number, 0)
        needed = needed_packets(clip.row.packet_back, clip.frames)
        decoded, used = decoded + len(needed), used + len(np.unique(clip.frames))
        read, stored = read + int(clip.row.packet_bytes[needed].sum()), stored + clip.row.size
    return PacketCost(decoded / used, read / len(index), stored / len(index))


def needed_packets(packet_back: np.ndarray, frames: np.ndarray) -> np.ndarray:
    """The packets to decode for ``frames``: they, and all that they refer to. Sorted and distinct, int64."""
    needed: set[int] = set()
    for frame in frames.tolist():
        while frame not in needed:
            needed.add(frame)
            frame -= int(packet_back[frame])
    return np.array(sorted(needed), np.int64)
