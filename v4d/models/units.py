"""How the units of a video lie in a batch, seen without a copy, and what all blocks that relate units have in common.

A video's units lie in the batch: x_NCTHW with N = B·U and U changing fastest. In channels_last_3d layout its memory
is (B, U, T, H·W, C), and seen as (B, C, U, T, H·W) it is again channels-last, at no cost.

Shape suffixes: B videos, U action units, N = B·U, C channels, T frames of a unit, H, W, S = H·W.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor, nn


def check_units(x: Tensor, units: int) -> None:
    """Raises ValueError if ``x`` is not (N, C, T, H, W), or ``units`` do not divide N."""
    if x.ndim != 5:
        raise ValueError(f"x has {x.ndim} dimensions, not the 5 of (N, C, T, H, W)")
    if units < 1 or x.shape[0] % units:
        raise ValueError(f"units={units} does not divide the {x.shape[0]} units of x")


def units_as_depth(x_NCTHW: Tensor, units: int) -> Tensor:
    """(B·U, C, T, H, W) as (B, C, U, T, H·W): a view if the input is channels_last_3d."""
    x_NTHWC = x_NCTHW.permute(0, 2, 3, 4, 1)
    x_BUTSC: Tensor = x_NTHWC.unflatten(0, (-1, units)).flatten(3, 4)
    return x_BUTSC.permute(0, 4, 1, 2, 3)


def units_as_batch(y_BCUTS: Tensor, size: tuple[int, ...]) -> Tensor:
    """The way back: (B, C, U, T, H·W) as (B·U, C, T, H, W), where ``size`` is (H, W)."""
    y_BUTSC = y_BCUTS.permute(0, 2, 3, 4, 1)
    y_NTHWC: Tensor = y_BUTSC.unflatten(3, size).flatten(0, 1)
    return y_NTHWC.permute(0, 4, 1, 2, 3)


def taken(x_NCTHW: Tensor, numbers_M: Tensor) -> Tensor:
    """Units by their numbers (int64, on any device), (M, C, T, H, W); a channels_last_3d input stays one."""
    taken_MTHWC = x_NCTHW.permute(0, 2, 3, 4, 1).index_select(0, numbers_M.to(x_NCTHW.device))
    return taken_MTHWC.permute(0, 4, 1, 2, 3)


class InterUnitBlock(nn.Module, ABC):
    """A block whose output at one unit depends on other units of the video; its size is that of its input.

    ``reach`` is how many units to each side that is, and None stands for all units of the video. Inference relies on
    it: two videos that agree within ``reach`` of a unit give the same output there.
    """

    reach: int | None

    @abstractmethod
    def forward(self, x_NCTHW: Tensor, units: int) -> Tensor:
        """(N, C, T, H, W) to the same. Raises ValueError if ``units`` do not divide N."""

    def at_units(self, x_NCTHW: Tensor, neighbours_MK: Tensor) -> Tensor:
        """What the block gives at M units, (M, C, T, H, W), of which each has its own neighbours among those of ``x``.

        ``neighbours_MK`` (M, 2·reach + 1) int64, on the CPU, are the numbers of its units from the left to the right,
        the unit itself in the middle, and -1 for a place beyond the ends of the video. For blocks that reach all units
        there is no such thing: they raise NotImplementedError.
        """
        raise NotImplementedError(f"{type(self).__name__} relates all units of a video")
