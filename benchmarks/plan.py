"""What a step of training takes of which videos, the same for every route, and what it costs a reader of packets."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from benchmarks.turns import Work
from pipelines.packets import needed_packets
from pipelines.samples import TrainSamples
from preprocess.index import Dataset, read_dataset

SEED = 0


@dataclass(frozen=True)
class PacketCost:
    """Means over the videos of an epoch: frames decoded per frame used, bytes read and stored per video."""

    decoded_per_used: float
    bytes_read: float
    bytes_stored: float


def plan(dataset: Dataset, work: Work) -> TrainSamples:
    """What ``TrainLoader`` takes with the seed ``SEED`` on one rank."""
    return TrainSamples(dataset, work.split, work.sampling, work.batch, SEED, 0, 1)


def plan_of(work: Work) -> TrainSamples:
    """The plan of the dataset that ``work`` names."""
    return plan(read_dataset(work.data), work)


def packet_cost(dataset: Dataset, work: Work) -> PacketCost:
    """What the first epoch costs. Frames of a batch that are one and the same frame of a video count once."""
    samples = plan(dataset, work)
    decoded, used, read, stored, videos = 0, 0, 0, 0, 0
    steps = samples.batches(0)
    for _ in range(samples.steps_per_epoch):
        for sample in next(steps):
            if sample.valid:
                needed = needed_packets(sample.row.packet_back, sample.frames)
                decoded, used = decoded + len(needed), used + len(np.unique(sample.frames))
                read, stored = read + int(sample.row.packet_bytes[needed].sum()), stored + sample.row.size
                videos += 1
    return PacketCost(decoded / used, read / videos, stored / videos)
