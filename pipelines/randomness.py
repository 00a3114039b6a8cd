"""All randomness of the data path: a pure function of (seed, purpose, epoch, sample).

The counter-based generator Philox4x64 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011)
is read raw, so that the numbers depend neither on what was drawn before nor on the version of NumPy's
distributions.
"""

from __future__ import annotations

import threading
from enum import IntEnum
from typing import Any

import numpy as np

_held = threading.local()
# Made once: to make one takes longer than to draw with it.
_UNUSED_BITS = np.uint64(11)


class Purpose(IntEnum):
    """What numbers are drawn for; each purpose has its own stream."""

    ORDER = 0
    UNITS = 1
    CROP = 2
    MIX = 3
    SHUFFLE = 4


def raw(seed: int, purpose: Purpose, epoch: int, sample: int, count: int) -> np.ndarray:
    """``count`` numbers of 64 random bits, (count,) uint64."""
    generator, state = _of_thread()
    key, counter = state["state"]["key"], state["state"]["counter"]
    key[0], key[1] = seed, purpose
    counter[2], counter[3] = epoch, sample
    generator.state = state
    return generator.random_raw(count)


def _of_thread() -> tuple[np.random.Philox, Any]:
    """This thread's generator and a state for it that nothing was drawn from: half the time of a new generator."""
    if not hasattr(_held, "generator"):
        _held.generator = np.random.Philox(key=0)
        _held.fresh = _held.generator.state
    return _held.generator, _held.fresh


def uniform(seed: int, purpose: Purpose, epoch: int, sample: int, count: int) -> np.ndarray:
    """``count`` numbers in [0, 1), (count,) float64."""
    return (raw(seed, purpose, epoch, sample, count) >> _UNUSED_BITS) * 2.0**-53
