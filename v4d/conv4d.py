"""4D convolution over (U, T, H, W) and the residual 4D block (section 3.2 of the paper).

A video's units lie in the batch: x_NCTHW with N = B·U and U changing fastest. In channels_last_3d layout its memory
is (B, U, T, H·W, C), and seen as (B, C, U, T, H·W) it is again channels-last, at no cost. So a kernel that spans
only U and T is one 3D convolution on that view.

Shape suffixes: B videos, U action units, N = B·U, C channels, T frames of a unit, H, W, S = H·W.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Kernel4d = tuple[int, int, int, int]


def conv4d(x_NCTHW: Tensor, weight: Tensor, units: int) -> Tensor:
    """Convolve over (U, T, H, W) with stride 1 and zeros around, so that the output is as large as the input.

    This is equation 1 of the paper without its bias. ``weight`` is (C_out, C, k_U, k_T, k_H, k_W), each extent odd.
    The output is (N, C_out, T, H, W); for a channels_last_3d input and k_H = k_W = 1 no copy of ``x`` is made.

    Raises ValueError if ``units`` do not divide N, the channels do not match, or an extent is even.
    """
    _check(x_NCTHW, weight, units)
    pad_U, pad_T, pad_H, pad_W = (extent // 2 for extent in weight.shape[2:])
    if pad_H == pad_W == 0:
        x_BCUTS = _units_as_depth(x_NCTHW, units)
        y_BCUTS = F.conv3d(x_BCUTS, weight.flatten(4, 5), padding=(pad_U, pad_T, 0))
        return _units_as_batch(y_BCUTS, x_NCTHW.shape[-2:])
    # One 3D convolution over k_U copies of the units, each shifted along U, stacked along C.
    x_BUCTHW = x_NCTHW.unflatten(0, (-1, units))
    padded = F.pad(x_BUCTHW, (0, 0) * 4 + (pad_U, pad_U))
    shifted = [padded[:, i : i + units].flatten(0, 1) for i in range(weight.shape[2])]
    stacked = torch.cat(shifted, dim=1).contiguous(memory_format=torch.channels_last_3d)
    weight_3d = weight.transpose(1, 2).flatten(1, 2)
    return F.conv3d(stacked, weight_3d, padding=(pad_T, pad_H, pad_W))


def _units_as_depth(x_NCTHW: Tensor, units: int) -> Tensor:
    """(B·U, C, T, H, W) as (B, C, U, T, H·W): a view if the input is channels_last_3d."""
    x_NTHWC = x_NCTHW.permute(0, 2, 3, 4, 1)
    x_BUTSC: Tensor = x_NTHWC.unflatten(0, (-1, units)).flatten(3, 4)
    return x_BUTSC.permute(0, 4, 1, 2, 3)


def _units_as_batch(y_BCUTS: Tensor, size: tuple[int, ...]) -> Tensor:
    """The way back: (B, C, U, T, H·W) as (B·U, C, T, H, W)."""
    y_BUTSC = y_BCUTS.permute(0, 2, 3, 4, 1)
    y_NTHWC: Tensor = y_BUTSC.unflatten(3, size).flatten(0, 1)
    return y_NTHWC.permute(0, 4, 1, 2, 3)


def _check(x_NCTHW: Tensor, weight: Tensor, units: int) -> None:
    if x_NCTHW.ndim != 5 or weight.ndim != 6:
        raise ValueError(f"conv4d takes x of 5 dimensions and weight of 6, not {x_NCTHW.ndim} and {weight.ndim}")
    if units < 1 or x_NCTHW.shape[0] % units:
        raise ValueError(f"units={units} does not divide the {x_NCTHW.shape[0]} units of x")
    if x_NCTHW.shape[1] != weight.shape[1]:
        raise ValueError(f"x has {x_NCTHW.shape[1]} channels, weight is for {weight.shape[1]}")
    if any(extent % 2 == 0 for extent in weight.shape[2:]):
        raise ValueError(f"kernel extents must be odd, not {tuple(weight.shape[2:])}")


class Conv4d(nn.Module):
    """``conv4d`` with a weight of its own, (C_out, C_in, k_U, k_T, k_H, k_W), without bias."""

    def __init__(self, in_channels: int, out_channels: int, kernel: Kernel4d) -> None:
        """Raises ValueError if an extent of ``kernel`` is even."""
        super().__init__()
        if any(extent % 2 == 0 for extent in kernel):
            raise ValueError(f"kernel extents must be odd, not {kernel}")
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels, *kernel))
        nn.init.kaiming_normal_(self.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x_NCTHW: Tensor, units: int) -> Tensor:
        return conv4d(x_NCTHW, self.weight, units)


class Residual4dBlock(nn.Module):
    """Y = ReLU(X + BN(conv4d(X))) (section 3.2), or Y = X + conv4d(X) without ``norm``.

    With ``norm_init``, where BN's weight starts, at 0 a fresh block is the identity on the non-negative output of a
    residual block, and a fresh V4D network is TSN on its 3D network. Without ``norm`` the convolution's weight starts
    at 0 to the same end.
    """

    def __init__(self, channels: int, kernel: Kernel4d, norm_init: float = 0.0, norm: bool = True) -> None:
        super().__init__()
        self.conv = Conv4d(channels, channels, kernel)
        self.norm = nn.BatchNorm3d(channels) if norm else None
        if self.norm is None:
            nn.init.zeros_(self.conv.weight)
        else:
            nn.init.constant_(self.norm.weight, norm_init)

    def forward(self, x_NCTHW: Tensor, units: int) -> Tensor:
        y_NCTHW: Tensor = self.conv(x_NCTHW, units)
        if self.norm is None:
            return x_NCTHW + y_NCTHW
        return F.relu(x_NCTHW + self.norm(y_NCTHW))
