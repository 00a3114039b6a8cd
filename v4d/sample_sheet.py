"""A picture of what the network sees: the units of some videos of a batch, after crop and flip."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw

from pipelines import Batch
from v4d.captions import draw_caption

_MOST_VIDEOS = 8
_MOST_FRAMES = 4
_LARGEST_SIDE = 112
_CAPTION, _GAP = 16, 4
_LEFT_OUT = "(does not count)"


def sample_sheet(batch: Batch, units: int, classes: Sequence[str]) -> np.ndarray:
    """The first videos of a training batch, one row each, its units side by side: (H, W, 3) uint8 RGB.

    At most 8 videos, and of each unit at most 4 frames, evenly over it, none larger than 112 pixels. Above each row
    stand the class of its (first) label and its key.
    """
    videos = min(_MOST_VIDEOS, len(batch.keys))
    x_NCTHW = batch.x[: videos * units]
    frames = x_NCTHW.shape[2]
    taken = torch.linspace(0, frames - 1, min(_MOST_FRAMES, frames)).round().long()
    few_NTCHW = x_NCTHW[:, :, taken.to(x_NCTHW.device)].transpose(1, 2)
    side = min(_LARGEST_SIDE, x_NCTHW.shape[-1])
    small = F.interpolate(few_NTCHW.flatten(0, 1).float(), (side, side), mode="bilinear", antialias=True)
    pixels = small.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
    tiles_BUTHWC = pixels.reshape(videos, units, len(taken), side, side, 3)

    width = units * (len(taken) * side + _GAP) - _GAP
    sheet = Image.new("RGB", (width, videos * (side + _CAPTION)))
    draw = ImageDraw.Draw(sheet)
    for row, of_video in enumerate(tiles_BUTHWC):
        top = row * (side + _CAPTION)
        draw_caption(draw, (2, top), _caption(batch, row, classes), _CAPTION - 4, width - 4)
        for unit, of_unit in enumerate(of_video):
            strip = np.concatenate(list(of_unit), axis=1)
            sheet.paste(Image.fromarray(strip), (unit * (len(taken) * side + _GAP), top + _CAPTION))
    return np.asarray(sheet)


def _caption(batch: Batch, row: int, classes: Sequence[str]) -> str:
    if not batch.keys[row]:
        return _LEFT_OUT
    label = int(batch.labels_B[row])
    return f"{classes[label] if label >= 0 else 'no label'}  {batch.keys[row]}"
