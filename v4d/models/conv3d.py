"""3D convolutions whose gradients are right on a CPU in bfloat16 too.

Shape suffixes: N units, C channels, T depth, H, W.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def conv3d(
    x_NCTHW: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: tuple[int, ...] = (1, 1, 1),
    padding: tuple[int, ...] = (0, 0, 0),
) -> Tensor:
    """As torch's own, with zeros in depth put there by hand where oneDNN does not take them well.

    In bfloat16 the weight's gradient that oneDNN 3.12 (torch 2.13) computes reads memory that is not its own where the
    depth is from 2 to one less than the kernel's: it is wrong, NaN or the end of the process. Two frames, or two units,
    under a kernel of three are such a case. Of an input that holds its zeros it is right.
    """
    if _reads_beside(x_NCTHW, weight):
        x_NCTHW = F.pad(x_NCTHW, (0, 0, 0, 0, padding[0], padding[0]))
        padding = (0, *padding[1:])
    return F.conv3d(x_NCTHW, weight, bias, stride, padding)


def _reads_beside(x_NCTHW: Tensor, weight: Tensor) -> bool:
    if x_NCTHW.device.type != "cpu" or not 1 < x_NCTHW.shape[2] < weight.shape[2]:
        return False
    dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x_NCTHW.dtype
    return dtype == torch.bfloat16


class Conv3d(nn.Conv3d):
    """torch's own, by ``conv3d``; its padding is a number for each extent."""

    def forward(self, x_NCTHW: Tensor) -> Tensor:
        assert not isinstance(self.padding, str)
        return conv3d(x_NCTHW, self.weight, self.bias, self.stride, self.padding)
