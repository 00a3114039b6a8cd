"""The residual 4D block (section 3.2 of the paper).

Shape suffixes: N = B·U units of B videos, C channels, T frames of a unit, H, W.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from v4d.models.conv4d import Conv4d, Kernel4d, conv4d
from v4d.models.units import InterUnitBlock, taken


class Residual4dBlock(InterUnitBlock):
    """Y = ReLU(X + BN(conv4d(X))); without ``activation`` Y = X + BN(conv4d(X)), which is the paper's formula.

    With ``norm_init``, where BN's weight starts, at 0 a fresh block is the identity: with the activation on the
    non-negative output of a residual block, without it on any input. Without ``norm`` there is no BN, and the
    convolution's weight starts at 0 to the same end.
    """

    def __init__(
        self,
        channels: int,
        kernel: Kernel4d = (3, 3, 1, 1),
        norm_init: float = 0.0,
        *,
        norm: bool = True,
        activation: bool = True,
    ) -> None:
        """Raises ValueError if an extent of ``kernel`` is even."""
        super().__init__()
        self.reach: int = kernel[0] // 2
        self.activation = activation
        self.conv = Conv4d(channels, channels, kernel)
        self.norm = nn.BatchNorm3d(channels) if norm else None
        if self.norm is None:
            nn.init.zeros_(self.conv.weight)
        else:
            nn.init.constant_(self.norm.weight, norm_init)

    def forward(self, x_NCTHW: Tensor, units: int) -> Tensor:
        return self._joined(x_NCTHW, self.conv(x_NCTHW, units))

    def at_units(self, x_NCTHW: Tensor, neighbours_MK: Tensor) -> Tensor:
        """See InterUnitBlock. What the kernel makes of a unit at each of its places is computed once per unit."""
        middle_M = neighbours_MK[:, self.reach]
        y_MCTHW = taken(conv4d(x_NCTHW, self._weight_at(self.reach), 1, self.conv.bias), middle_M)
        for place in range(2 * self.reach + 1):
            if place != self.reach:
                (there,) = torch.where(neighbours_MK[:, place] >= 0)
                y_NCTHW = conv4d(x_NCTHW, self._weight_at(place), 1)
                y_MCTHW.index_add_(0, there.to(x_NCTHW.device), taken(y_NCTHW, neighbours_MK[there, place]))
        return self._joined(taken(x_NCTHW, middle_M), y_MCTHW)

    def _weight_at(self, place: int) -> Tensor:
        return self.conv.weight[:, :, place : place + 1]

    def _joined(self, x_NCTHW: Tensor, y_NCTHW: Tensor) -> Tensor:
        if self.norm is not None:
            y_NCTHW = self.norm(y_NCTHW)
        y_NCTHW = x_NCTHW + y_NCTHW
        return F.relu(y_NCTHW, inplace=True) if self.activation else y_NCTHW
