"""The stem of I3D-S (Table 1 of the paper): pixels to features, where a network's largest tensors are.

Shape suffixes: N units, C channels, T frames of a unit, F = N·T, H, W; OH = ceil(H/2), OW; O channels out.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from v4d.models.frames import FrameConv, frames_as_batch, frames_as_units, is_channels_last, max_pool_frames
from v4d.models.norm_pool import can_join, norm_pool


class _PixelConv(FrameConv):
    """1×7×7 convolution of stride 2 of 3 channels.

    A GPU's matrix units want channels by the eight. There a block of 2×2 pixels becomes a pixel of 4×4 channels (the
    fourth colour is 0), of which the convolution is one of 4×4 at stride 1, to the same output.
    """

    def __init__(self, width: int) -> None:
        super().__init__(3, width, (1, 7, 7), stride=(1, 2, 2), padding=(0, 3, 3), bias=False)

    def by_blocks(self, frames_FCHW: Tensor) -> Tensor:
        """The same output, (F, O, OH, OW), from blocks of 2×2 pixels; under autocast in its type."""
        dtype = torch.get_autocast_dtype("cuda") if torch.is_autocast_enabled("cuda") else self.weight.dtype
        frames_FHWC = frames_FCHW.permute(0, 2, 3, 1).to(dtype)
        height, width = frames_FHWC.shape[1:3]
        # The kernel begins one pixel earlier, with a zero, and ends where the last block does.
        right, below = (2 * ((size + 1) // 2) + 2 - size for size in (width, height))
        padded_FHWC = F.pad(frames_FHWC, (0, 1, 4, right, 4, below))
        blocks_FHIWJC = padded_FHWC.unflatten(2, (-1, 2)).unflatten(1, (-1, 2))
        blocks_FHWC = blocks_FHIWJC.permute(0, 1, 3, 2, 4, 5).flatten(3)
        weight_OCHW = F.pad(self.weight.squeeze(2), (1, 0, 1, 0, 0, 1))
        weight_OCHIWJ = weight_OCHW.unflatten(3, (-1, 2)).unflatten(2, (-1, 2))
        weight_OHWC = weight_OCHIWJ.permute(0, 2, 4, 3, 5, 1).flatten(3)
        return F.conv2d(blocks_FHWC.permute(0, 3, 1, 2), weight_OHWC.permute(0, 3, 1, 2), self.bias)


class Stem(nn.Sequential):
    """1×7×7 convolution, norm, ReLU and 1×3×3 max-pool; convolution and pool are of stride 2 in space."""

    def __init__(self, width: int) -> None:
        super().__init__(_PixelConv(width), nn.BatchNorm3d(width))

    def forward(self, x_NCTHW: Tensor) -> Tensor:
        conv, norm = self
        assert isinstance(conv, _PixelConv)
        if x_NCTHW.is_cuda and is_channels_last(x_NCTHW):
            y_FCHW = conv.by_blocks(frames_as_batch(x_NCTHW))
            if can_join(y_FCHW, norm):
                assert isinstance(norm, nn.BatchNorm3d)
                return frames_as_units(norm_pool(y_FCHW, norm), x_NCTHW.shape[0])
            y_NCTHW = frames_as_units(y_FCHW, x_NCTHW.shape[0])
        else:
            y_NCTHW = conv(x_NCTHW)
        # ReLU keeps order, so it comes after the pool, where there is a quarter to do.
        return F.relu(max_pool_frames(norm(y_NCTHW)))
