"""Layers that see each frame by itself, as 2D layers on views: a GPU has better kernels for these than in 3D.

Shape suffixes: N units, C channels, T frames of a unit, F = N·T, H, W.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def frames_as_batch(x_NCTHW: Tensor) -> Tensor:
    """(N, C, T, H, W) as (N·T, C, H, W), channels-last: a view if the input is channels_last_3d."""
    x_FHWC: Tensor = x_NCTHW.permute(0, 2, 3, 4, 1).flatten(0, 1)
    return x_FHWC.permute(0, 3, 1, 2)


def frames_as_units(y_FCHW: Tensor, units: int) -> Tensor:
    """The way back, (N, C, T, H, W) with N ``units``: a view if the input is channels-last."""
    y_NTHWC: Tensor = y_FCHW.permute(0, 2, 3, 1).unflatten(0, (units, -1))
    return y_NTHWC.permute(0, 4, 1, 2, 3)


def is_channels_last(x_NCTHW: Tensor) -> bool:
    """Whether the frames of ``x`` can be seen one by one without a copy."""
    return x_NCTHW.is_contiguous(memory_format=torch.channels_last_3d)


class FrameConv(nn.Conv3d):
    """A Conv3d of kernel (1, k, k). On a GPU a channels_last_3d input is convolved in 2D, to the same output.

    On a CPU the two are as fast (docs/measurements.md).
    """

    def forward(self, x_NCTHW: Tensor) -> Tensor:
        if not (x_NCTHW.is_cuda and is_channels_last(x_NCTHW)):
            return super().forward(x_NCTHW)
        weight, frames_FCHW = self.weight.squeeze(2), frames_as_batch(x_NCTHW)
        y_FCHW = F.conv2d(frames_FCHW, weight, self.bias, self.stride[1:], self.padding[1:])
        return frames_as_units(y_FCHW, x_NCTHW.shape[0])


def max_pool_frames(x_NCTHW: Tensor) -> Tensor:
    """1×3×3 max-pool of stride 2 in space: of frames one by one, which torch does several times as fast as of units."""
    if not is_channels_last(x_NCTHW):
        return F.max_pool3d(x_NCTHW, (1, 3, 3), stride=(1, 2, 2), padding=(0, 1, 1))
    return frames_as_units(F.max_pool2d(frames_as_batch(x_NCTHW), 3, stride=2, padding=1), x_NCTHW.shape[0])
