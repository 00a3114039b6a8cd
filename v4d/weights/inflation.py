"""A 2D kernel as a 3D one that does the same on a video whose frames are all alike."""

from __future__ import annotations

from torch import Tensor


def inflate(kernel_OIHW: Tensor, frames: int) -> Tensor:
    """The kernel repeated along time and divided by its time extent: (O, I, frames, H, W), of the same dtype.

    This is Carreira & Zisserman, "Quo Vadis, Action Recognition?", CVPR 2017. Where the kernel sees ``frames`` equal
    frames its response is the 2D kernel's. Where it reaches over an end of the unit it sees zeros in their place, so
    that the first and the last frames of each layer differ.
    """
    return kernel_OIHW.unsqueeze(2).repeat(1, 1, frames, 1, 1) / frames
