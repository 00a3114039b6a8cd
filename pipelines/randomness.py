"""All randomness of the data path: a pure function of (seed, purpose, epoch, sample).

The counter-based generator Philox4x64 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011)
is read raw, so that the numbers depend neither on what was drawn before nor on the version of NumPy's
distributions.
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np


class Purpose(IntEnum):
    """What numbers are drawn for; each purpose has its own stream."""

    ORDER = 0
    UNITS = 1
    CROP = 2


def raw(seed: int, purpose: Purpose, epoch: int, sample: int, count: int) -> np.ndarray:
    """``count`` numbers of 64 random bits, (count,) uint64."""
    return np.random.Philox(key=[seed, purpose], counter=[0, 0, epoch, sample]).random_raw(count)


def uniform(seed: int, purpose: Purpose, epoch: int, sample: int, count: int) -> np.ndarray:
    """``count`` numbers in [0, 1), (count,) float64."""
    return (raw(seed, purpose, epoch, sample, count) >> np.uint64(11)) * 2.0**-53
