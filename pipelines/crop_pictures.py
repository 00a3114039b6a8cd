"""Cuts crops out of decoded pictures, where DALI's own resize is not the fastest way.

On a CPU DALI 2.4 takes three times as long to resize a picture as to decode it; this takes less than half as long as
decoding does. And DALI crops a stream of several videos' frames only as a whole.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from pipelines.crops import Crop


def cut_crop(pictures_FHWC: Tensor, take: Tensor | None, crop: Crop, out_FHWC: Tensor) -> None:
    """Write a crop of the pictures ``take`` (F,) int64, or of all, into ``out_FHWC``, resized to its size, all uint8.

    The filter is a triangle, widened where the picture becomes smaller, as fn.resize's is; where the crop has the
    size of ``out_FHWC`` already it is copied.
    """
    cut_FCHW = pictures_FHWC[:, crop.y : crop.y + crop.height, crop.x : crop.x + crop.width].permute(0, 3, 1, 2)
    if crop.flip:
        cut_FCHW = cut_FCHW.flip(3)
    out_FCHW = out_FHWC.permute(0, 3, 1, 2)
    if cut_FCHW.shape[2:] == out_FCHW.shape[2:]:
        resized_FCHW = cut_FCHW
    elif cut_FCHW.is_cuda:
        # There is no such filter for bytes on a GPU.
        to_size = F.interpolate(cut_FCHW.float(), out_FCHW.shape[2:], mode="bilinear", antialias=True)
        resized_FCHW = to_size.round_().clamp_(0, 255)
    elif take is None:
        # What F.interpolate calls, into memory that there is.
        torch.ops.aten._upsample_bilinear2d_aa.out(cut_FCHW, out_FCHW.shape[2:], False, None, None, out=out_FCHW)
        return
    else:
        resized_FCHW = F.interpolate(cut_FCHW, out_FCHW.shape[2:], mode="bilinear", antialias=True)
    out_FCHW.copy_(resized_FCHW if take is None else resized_FCHW[take])
