"""The non-local block (Wang et al., "Non-local Neural Networks", CVPR 2018), which the paper compares with in Table 3.

Shape suffixes: B videos, U action units, N = B·U, C channels, D = C/2, T frames of a unit, H, W, S = H·W,
P = U·T·S positions of a video.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from v4d.models.units import InterUnitBlock, check_units, units_as_batch, units_as_depth


class NonLocalBlock(InterUnitBlock):
    """Z = X + BN(W_z · softmax(θ(X) φ(X)ᵀ / √D) g(X)) over all positions (U, T, H, W) of a video.

    The pairwise function is the embedded Gaussian, the bottleneck half of the channels. The factor 1/√D, which the
    article's formula leaves to θ and φ, keeps a fresh softmax from being one-hot. There are no biases: the softmax
    takes out that of φ, and BN that of g. With ``norm_init``, where BN's weight starts, at 0 a fresh block is the
    identity. With units=1 positions attend within their clip, as in the article.
    """

    def __init__(self, channels: int, norm_init: float = 0.0) -> None:
        """Raises ValueError if ``channels`` is odd."""
        super().__init__()
        if channels % 2:
            raise ValueError(f"a non-local block halves its channels: channels must be even, not {channels}")
        self.reach = None
        self.theta = nn.Conv3d(channels, channels // 2, 1, bias=False)
        self.phi = nn.Conv3d(channels, channels // 2, 1, bias=False)
        self.g = nn.Conv3d(channels, channels // 2, 1, bias=False)
        self.out = nn.Conv3d(channels // 2, channels, 1, bias=False)
        self.norm = nn.BatchNorm3d(channels)
        for conv in (self.theta, self.phi, self.g, self.out):
            nn.init.normal_(conv.weight, std=0.01)
        nn.init.constant_(self.norm.weight, norm_init)

    def forward(self, x_NCTHW: Tensor, units: int) -> Tensor:
        check_units(x_NCTHW, units)
        x_BCUTS = units_as_depth(x_NCTHW, units)
        query, key, value = (_positions(layer(x_BCUTS)) for layer in (self.theta, self.phi, self.g))
        # One head: the kernels that do not hold the P×P matrix want an axis for it.
        mixed_BPD = F.scaled_dot_product_attention(query.unsqueeze(1), key.unsqueeze(1), value.unsqueeze(1)).squeeze(1)
        mixed_BDUTS = mixed_BPD.transpose(1, 2).unflatten(2, x_BCUTS.shape[2:])
        y_NCTHW: Tensor = x_NCTHW + units_as_batch(self.norm(self.out(mixed_BDUTS)), x_NCTHW.shape[-2:])
        return y_NCTHW


def _positions(x_BDUTS: Tensor) -> Tensor:
    """(B, D, U, T, S) as (B, P, D): a view if the input is channels_last_3d."""
    return x_BDUTS.flatten(2).transpose(1, 2)
