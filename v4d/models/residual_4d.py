"""The residual 4D block (section 3.2 of the paper).

Shape suffixes: N = B·U units of B videos, C channels, T frames of a unit, H, W.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from v4d.models.conv4d import Conv4d, Kernel4d
from v4d.models.units import InterUnitBlock


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
        self.reach = kernel[0] // 2
        self.activation = activation
        self.conv = Conv4d(channels, channels, kernel)
        self.norm = nn.BatchNorm3d(channels) if norm else None
        if self.norm is None:
            nn.init.zeros_(self.conv.weight)
        else:
            nn.init.constant_(self.norm.weight, norm_init)

    def forward(self, x_NCTHW: Tensor, units: int) -> Tensor:
        y_NCTHW: Tensor = self.conv(x_NCTHW, units)
        if self.norm is not None:
            y_NCTHW = self.norm(y_NCTHW)
        return F.relu(x_NCTHW + y_NCTHW) if self.activation else x_NCTHW + y_NCTHW
