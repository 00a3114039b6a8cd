"""A 2D kernel as a 3D one that does the same on a video whose frames are all alike, in one of two ways."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Inflation = Callable[[Tensor, int], Tensor]


def repeated(kernel_OIHW: Tensor, frames: int) -> Tensor:
    """The kernel repeated along time and divided by its time extent: (O, I, frames, H, W), of the same dtype.

    This is Carreira & Zisserman, "Quo Vadis, Action Recognition?", CVPR 2017. Where the kernel sees ``frames`` equal
    frames its response is the 2D kernel's. Where it reaches over an end of the unit it sees zeros in their place, so
    that the first and the last frames of each layer differ.
    """
    return kernel_OIHW.unsqueeze(2).repeat(1, 1, frames, 1, 1) / frames


def centred(kernel_OIHW: Tensor, frames: int) -> Tensor:
    """The kernel at the middle of ``frames`` (odd), zeros before and after: (O, I, frames, H, W), of the same dtype.

    Each frame's response is the 2D kernel's on that frame, at the ends of a unit too, whatever the other frames show.
    This is the "central frame initialisation" of Arnab et al., "ViViT", ICCV 2021.
    """
    kernel_OITHW = torch.zeros_like(kernel_OIHW).unsqueeze(2).repeat(1, 1, frames, 1, 1)
    kernel_OITHW[:, :, frames // 2] = kernel_OIHW
    return kernel_OITHW
