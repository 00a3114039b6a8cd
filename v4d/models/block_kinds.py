"""The kinds of blocks that relate units, by the names that recipes and ``cast_to_4d`` have for them."""

from __future__ import annotations

from typing import get_args

from v4d.config import BlockKind, nearest
from v4d.models.conv4d import Kernel4d
from v4d.models.generalized_nonlocal import CompactGeneralizedNonLocalBlock
from v4d.models.nonlocal_block import NonLocalBlock
from v4d.models.residual_4d import Residual4dBlock
from v4d.models.units import InterUnitBlock


def make_block(
    kind: BlockKind, channels: int, kernel: Kernel4d, norm_init: float, *, norm: bool = True, activation: bool = True
) -> InterUnitBlock:
    """A fresh block for ``channels``. ``kernel``, ``norm`` and ``activation`` are for "conv4d" only."""
    if kind == "conv4d":
        return Residual4dBlock(channels, kernel, norm_init, norm=norm, activation=activation)
    if kind not in get_args(BlockKind):
        raise ValueError(f"there is no block '{kind}'{nearest(kind, list(get_args(BlockKind)))}")
    if kind == "nonlocal":
        return NonLocalBlock(channels, norm_init)
    return CompactGeneralizedNonLocalBlock(channels, norm_init)
