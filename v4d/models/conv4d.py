"""4D convolution over (U, T, H, W) (section 3.2 of the paper).

In the view of ``units_as_depth`` a kernel that spans only U and T is one 3D convolution.

Shape suffixes: B videos, U action units, N = B·U, C channels, T frames of a unit, H, W, S = H·W or a part
of it, P parts, Q = P·B.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from v4d.models.conv3d import conv3d
from v4d.models.units import check_units, units_as_batch, units_as_depth

Kernel4d = tuple[int, int, int, int]
_Form = Callable[[Tensor, Tensor, int, Tensor | None], Tensor]
# Of a video's positions. In two it takes up to a tenth longer, in seven as long.
_PARTS = 4


def conv4d(x_NCTHW: Tensor, weight: Tensor, units: int, bias: Tensor | None = None) -> Tensor:
    """Convolve over (U, T, H, W) with stride 1 and zeros around, so that the output is as large as the input.

    This is equation 1 of the paper. ``weight`` is (C_out, C, k_U, k_T, k_H, k_W), each extent odd, ``bias`` (C_out,).
    The output is (N, C_out, T, H, W), channels_last_3d if the input is. For such an input and k_H = k_W = 1 no copy of
    ``x`` is made, except where copies are faster: in float32 on a CPU, for gradients and for a single video.

    Raises ValueError if ``units`` do not divide N, the channels do not match, or an extent is even.
    """
    _check(x_NCTHW, weight, units, bias)
    return _form(x_NCTHW, weight, units)(x_NCTHW, weight, units, bias)


def _form(x_NCTHW: Tensor, weight: Tensor, units: int) -> _Form:
    """The fastest way to do it, by kernel, device and number of videos: docs/measurements.md has the figures."""
    _, _, k_U, _, k_H, k_W = weight.shape
    if k_H > 1 or k_W > 1:
        return _stacked if k_U > 1 else _of_each_unit
    in_float32_on_a_cpu = (
        x_NCTHW.device.type == "cpu" and x_NCTHW.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
    )
    learns = torch.is_grad_enabled() and (x_NCTHW.requires_grad or weight.requires_grad)
    is_one_video = x_NCTHW.shape[0] == units
    return _in_parts if in_float32_on_a_cpu and (learns or is_one_video) else _on_a_view


def _of_each_unit(x_NCTHW: Tensor, weight: Tensor, _units: int, bias: Tensor | None) -> Tensor:
    """k_U = 1: a 3D convolution of the units as they are."""
    return conv3d(x_NCTHW, weight.squeeze(2), bias, padding=_around(weight.shape[3:]))


def _on_a_view(x_NCTHW: Tensor, weight: Tensor, units: int, bias: Tensor | None) -> Tensor:
    """k_H = k_W = 1: one 3D convolution over (U, T, H·W), without a copy of a channels-last input."""
    y_BCUTS = conv3d(units_as_depth(x_NCTHW, units), weight.flatten(4, 5), bias, padding=_around(weight.shape[2:5]))
    return units_as_batch(y_BCUTS, x_NCTHW.shape[-2:])


def _in_parts(x_NCTHW: Tensor, weight: Tensor, units: int, bias: Tensor | None) -> Tensor:
    """The same in the default layout, with the positions in parts, as if they were so many times as many videos.

    oneDNN takes up to five times as long for the weight's gradient in channels-last, and in any layout for one video.
    """
    layout = _layout(x_NCTHW)
    x_BCUTS = units_as_depth(x_NCTHW, units)
    positions = x_BCUTS.shape[4]
    width = -(-positions // _PARTS)
    if positions % width:
        # The kernel does not reach from one position to another: what is there is cut off again.
        x_BCUTS = F.pad(x_BCUTS, (0, -positions % width))
    x_PBCUTS = x_BCUTS.unflatten(4, (-1, width)).movedim(4, 0)
    x_QCUTS = x_PBCUTS.flatten(0, 1).contiguous()
    y_QCUTS = F.conv3d(x_QCUTS, weight.flatten(4, 5), bias, padding=_around(weight.shape[2:5]))
    y_BUTPSC = y_QCUTS.unflatten(0, x_PBCUTS.shape[:2]).permute(1, 3, 4, 0, 5, 2)
    y_BCUTS = y_BUTPSC.flatten(3, 4)[:, :, :, :positions].permute(0, 4, 1, 2, 3)
    return units_as_batch(y_BCUTS, x_NCTHW.shape[-2:]).contiguous(memory_format=layout)


def _stacked(x_NCTHW: Tensor, weight: Tensor, units: int, bias: Tensor | None) -> Tensor:
    """Any kernel: one 3D convolution over k_U copies of the units, each shifted along U, stacked along C."""
    x_BUTHWC = x_NCTHW.permute(0, 2, 3, 4, 1).unflatten(0, (-1, units))
    pad_U = weight.shape[2] // 2
    padded = F.pad(x_BUTHWC, (0, 0) * 4 + (pad_U, pad_U))
    shifted = [padded[:, i : i + units] for i in range(weight.shape[2])]
    stacked_NTHWC = torch.cat(shifted, dim=-1).flatten(0, 1)
    weight_3d = weight.transpose(1, 2).flatten(1, 2)
    return conv3d(stacked_NTHWC.permute(0, 4, 1, 2, 3), weight_3d, bias, padding=_around(weight.shape[3:]))


def _around(extents: torch.Size) -> tuple[int, ...]:
    """The zeros on each side that keep the size."""
    return tuple(extent // 2 for extent in extents)


def _layout(x: Tensor) -> torch.memory_format:
    is_channels_last = x.is_contiguous(memory_format=torch.channels_last_3d)
    return torch.channels_last_3d if is_channels_last else torch.contiguous_format


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
