"""What a step of training takes of which videos, the same for every route, and what it costs a reader of packets."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np

from benchmarks.turns import Work
from pipelines.packets import needed_packets
from pipelines.samples import Sample, TrainSamples
from preprocess.index import Dataset

SEED = 0
_MOST_VIDEOS = 4_000


@dataclass(frozen=True)
class PacketCost:
    """Means over the videos of an epoch: frames decoded per frame used, bytes read and stored per video."""

    decoded_per_used: float
    bytes_read: float
    bytes_stored: float


def planned(dataset: Dataset, work: Work) -> Iterator[list[Sample]]:
    """The batches that ``TrainLoader`` makes with the seed ``SEED`` on one rank, without end."""
    plan = _plan(dataset, work)
    return ([plan.sample(place) for place in places] for places in plan.batches(0))


def _plan(dataset: Dataset, work: Work) -> TrainSamples:
    return TrainSamples(dataset, work.split, work.sampling, work.batch, SEED, 0, 1)


def packet_cost(dataset: Dataset, work: Work) -> PacketCost:
    """What the first epoch costs, or its first 4,000 videos. A frame that a video's sample has twice counts once."""
    steps = min(_plan(dataset, work).steps_per_epoch, -(-_MOST_VIDEOS // work.batch))
    decoded, used, read, stored, videos = 0, 0, 0, 0, 0
    for samples in islice(planned(dataset, work), steps):
        for sample in samples:
            if sample.place.valid:
                row, frames = sample.row, np.unique(sample.frames).tolist()
                needed = needed_packets(row.packet_back, frames)
                decoded, used = decoded + len(needed), used + len(frames)
                read, stored = read + int(row.packet_bytes[needed].sum()), stored + row.size
                videos += 1
    return PacketCost(decoded / used, read / videos, stored / videos)
