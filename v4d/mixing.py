"""Mixup (Zhang et al., ICLR 2018) and CutMix (Yun et al., ICCV 2019) of whole videos.

All units and frames of a video are mixed in the same way. What is drawn, a share and a box, is one for the whole global
batch, a function of the seed and the step alone. A rank has only its own videos to pair: the first labelled one with
the last, the second with the one before that, and so on; so on another number of ranks the partners are others.

Shape suffixes: B videos, N = B·U action units, C channels, T frames of a unit, H, W.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pipelines.randomness import Purpose
from v4d.config import TrainConfig
from v4d.models.units import taken


@dataclass(frozen=True)
class Mixing:
    """How the videos of a step are mixed: ``share`` (0 to 1) is what remains of each, the rest is its partner's.

    ``box`` (top, left, bottom, right) in pixels is what a video has of its partner; without one all pixels are mixed.
    """

    share: float
    box: tuple[int, int, int, int] | None = None

    def pixels(self, x_NCTHW: Tensor, partners_B: Tensor) -> Tensor:
        """The mixed pixels, 0 to 255: float32, or with a box of the type of ``x_NCTHW``, which is left as it is."""
        units = x_NCTHW.shape[0] // len(partners_B)
        numbers_N = (partners_B[:, None] * units + torch.arange(units)).flatten()
        theirs_NCTHW = taken(x_NCTHW, numbers_N)
        if self.box is None:
            return torch.lerp(theirs_NCTHW.float(), x_NCTHW.float(), self.share)
        top, left, bottom, right = self.box
        # A copy, for the loader may still need the pixels.
        mixed_NCTHW = x_NCTHW.clone()
        mixed_NCTHW[..., top:bottom, left:right] = theirs_NCTHW[..., top:bottom, left:right]
        return mixed_NCTHW


def draw_mixing(config: TrainConfig, step: int, size: tuple[int, int]) -> Mixing | None:
    """The mixing of a step, counted from 0 over the whole run, for pixels of ``size`` (H, W); None if none is asked
    for. With both kinds a step takes either, with equal chance."""
    if not (config.mixup or config.cutmix):
        return None
    draws = np.random.Generator(np.random.Philox(key=[config.seed, Purpose.MIX], counter=[0, 0, step, 0]))
    cuts = bool(config.cutmix) and (not config.mixup or draws.random() < 0.5)
    alpha = config.cutmix if cuts else config.mixup
    share = float(draws.beta(alpha, alpha))
    return _boxed(share, size, draws) if cuts else Mixing(share)


def _boxed(share: float, size: tuple[int, int], draws: np.random.Generator) -> Mixing:
    """A box with a middle anywhere, cut off at the edges, after which the share is what remains outside."""
    (top, bottom), (left, right) = (_extent(side, math.sqrt(1 - share), draws.random()) for side in size)
    share = 1 - (bottom - top) * (right - left) / (size[0] * size[1])
    return Mixing(share, (top, left, bottom, right))


def _extent(side: int, part: float, middle: float) -> tuple[int, int]:
    first = int(middle * side) - int(part * side) // 2
    return max(first, 0), min(first + int(part * side), side)


def partners(labels_B: Tensor) -> Tensor:
    """The number of each video's partner, (B,) int64, CPU: its own for one without a label, and for the middle one.

    ``labels_B`` (int64, CPU) is -1 for videos without a label, which are neither mixed nor mixed in.
    """
    partners_B = torch.arange(len(labels_B))
    labelled = labels_B >= 0
    partners_B[labelled] = partners_B[labelled].flip(0)
    return partners_B
