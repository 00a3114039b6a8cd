"""4D convolution over (U, T, H, W) (section 3.2 of the paper).

In the view of ``units_as_depth`` a kernel that spans only U and T is one 3D convolution.

Shape suffixes: B videos, U action units, N = B·U, C channels, T frames of a unit, H, W, S = H·W.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from v4d.models.units import check_units, units_as_batch, units_as_depth

Kernel4d = tuple[int, int, int, int]


def conv4d(x_NCTHW: Tensor, weight: Tensor, units: int, bias: Tensor | None = None) -> Tensor:
    """Convolve over (U, T, H, W) with stride 1 and zeros around, so that the output is as large as the input.

    This is equation 1 of the paper. ``weight`` is (C_out, C, k_U, k_T, k_H, k_W), each extent odd, ``bias`` (C_out,).
    The output is (N, C_out, T, H, W), channels_last_3d if the input is. For such an input and k_H = k_W = 1 no copy of
    ``x`` is made, except of a single video on a CPU.

    Raises ValueError if ``units`` do not divide N, the channels do not match, or an extent is even.
    """
    _check(x_NCTHW, weight, units, bias)
    pad_U, pad_T, pad_H, pad_W = (extent // 2 for extent in weight.shape[2:])
    # Of a single video oneDNN takes ten times as long for that view as for the copies below (128 channels, 28x28).
    is_one_on_a_cpu = x_NCTHW.device.type == "cpu" and x_NCTHW.shape[0] == units
    if pad_H == pad_W == 0 and (pad_U == 0 or not is_one_on_a_cpu):
        x_BCUTS = units_as_depth(x_NCTHW, units)
        y_BCUTS = F.conv3d(x_BCUTS, weight.flatten(4, 5), bias, padding=(pad_U, pad_T, 0))
        return units_as_batch(y_BCUTS, x_NCTHW.shape[-2:])
    if pad_U == 0:
        return F.conv3d(x_NCTHW, weight.squeeze(2), bias, padding=(pad_T, pad_H, pad_W))
    # One 3D convolution over k_U copies of the units, each shifted along U, stacked along C.
    x_BUTHWC = x_NCTHW.permute(0, 2, 3, 4, 1).unflatten(0, (-1, units))
    padded = F.pad(x_BUTHWC, (0, 0) * 4 + (pad_U, pad_U))
    shifted = [padded[:, i : i + units] for i in range(weight.shape[2])]
    stacked_NTHWC = torch.cat(shifted, dim=-1).flatten(0, 1)
    weight_3d = weight.transpose(1, 2).flatten(1, 2)
    return F.conv3d(stacked_NTHWC.permute(0, 4, 1, 2, 3), weight_3d, bias, padding=(pad_T, pad_H, pad_W))


def _check(x_NCTHW: Tensor, weight: Tensor, units: int, bias: Tensor | None) -> None:
    if x_NCTHW.ndim != 5 or weight.ndim != 6:
        raise ValueError(f"conv4d takes x of 5 dimensions and weight of 6, not {x_NCTHW.ndim} and {weight.ndim}")
    check_units(x_NCTHW, units)
    if x_NCTHW.shape[1] != weight.shape[1]:
        raise ValueError(f"x has {x_NCTHW.shape[1]} channels, weight is for {weight.shape[1]}")
    if any(extent % 2 == 0 for extent in weight.shape[2:]):
        raise ValueError(f"kernel extents must be odd, not {tuple(weight.shape[2:])}")
    if bias is not None and bias.shape != weight.shape[:1]:
        raise ValueError(f"bias is of shape {tuple(bias.shape)}, weight gives {weight.shape[0]} channels")


class Conv4d(nn.Module):
    """``conv4d`` with a weight of its own, (C_out, C_in, k_U, k_T, k_H, k_W).

    It has no bias, for a norm comes after it; where the norm is folded into it, its ``bias`` is (C_out,).
    """

    def __init__(self, in_channels: int, out_channels: int, kernel: Kernel4d) -> None:
        """Raises ValueError if ``kernel`` is not four odd extents."""
        super().__init__()
        if len(kernel) != 4:
            raise ValueError(f"kernel has {len(kernel)} extents, not the 4 of units, frames, height and width")
        if any(extent < 1 or extent % 2 == 0 for extent in kernel):
            raise ValueError(f"kernel extents must be odd, not {kernel}")
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels, *kernel))
        self.bias: nn.Parameter | None = None
        nn.init.kaiming_normal_(self.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x_NCTHW: Tensor, units: int) -> Tensor:
        return conv4d(x_NCTHW, self.weight, units, self.bias)
