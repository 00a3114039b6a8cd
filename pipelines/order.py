"""The order of samples: pure functions of (seed, epoch, global batch), the same on any number of ranks."""

from __future__ import annotations

import math

import numpy as np

from pipelines.randomness import Purpose, raw


def steps_per_epoch(samples: int, global_batch: int) -> int:
    """Number of global batches that hold every sample once."""
    return -(-samples // global_batch)


def train_order(samples: int, seed: int, epoch: int) -> np.ndarray:
    """The permutation of an epoch, (samples,) int64."""
    return np.argsort(raw(seed, Purpose.ORDER, epoch, 0, samples), kind="stable")


def rank_share(global_batch: int, ranks: int) -> int:
    """Samples of a global batch on each rank. Raises ValueError if they do not divide evenly."""
    if global_batch % ranks:
        raise ValueError(f"a global batch of {global_batch} does not divide over {ranks} ranks")
    return global_batch // ranks


def rank_slice(order: np.ndarray, step: int, global_batch: int, rank: int, ranks: int) -> tuple[np.ndarray, np.ndarray]:
    """The samples of one rank in one step of an epoch.

    Every rank gets ``global_batch / ranks`` samples in every step. Where the last global batch outruns the order
    it goes on from the beginning, so that the network sees real pictures, but those samples are not valid: they
    count in no loss and no metric.

    Returns the samples and whether each is valid, both (global_batch / ranks,), int64 and bool. Raises ValueError
    if the ranks do not divide the global batch.
    """
    share = rank_share(global_batch, ranks)
    first = step * global_batch + rank * share
    position = np.arange(first, first + share)
    return order[position % len(order)], position < len(order)


def stand_in(sample: int, samples: int) -> int:
    """The sample that takes the place of one that cannot be loaded; again and again it leads through all of them.

    It lies in another shard, for what spoils a video often spoils its neighbours.
    """
    step = max(1, round(samples * (math.sqrt(5) - 1) / 2))
    while math.gcd(step, samples) > 1:
        step += 1
    return (sample + step) % samples
