"""The compact generalized non-local block (Yue et al., NeurIPS 2018), which the paper compares with in Table 3.

Shape suffixes: B videos, U action units, N = B·U, C channels, D = C/2, G groups, T frames of a unit, H, W, S = H·W.
"""

from __future__ import annotations

from torch import Tensor, nn

from v4d.models.units import InterUnitBlock, check_units, units_as_batch, units_as_depth


class CompactGeneralizedNonLocalBlock(InterUnitBlock):
    """Z = X + GN(W_z · Y), where Y relates every channel and position of a video to every other of its group.

    With the dot-product kernel the relation of all pairs, vec(θ) vec(φ)ᵀ vec(g), needs no matrix of pairs: taken from
    the right it is one number for each group, φᵀg, times θ. That number is a mean here where the article has a sum:
    it does not overflow in fp16, and GN takes out a factor that all groups share. W_z is not grouped: else GN would
    take out each group's number but for its sign. With ``norm_init``, where GN's weight starts, at 0 a fresh block is
    the identity. With units=1 the relation is the clip's, as in the article.
    """

    def __init__(self, channels: int, norm_init: float = 0.0, groups: int = 8) -> None:
        """Raises ValueError if ``groups`` do not divide half of ``channels``."""
        super().__init__()
        if channels % 2 or channels // 2 % groups:
            raise ValueError(f"groups={groups} does not divide half of channels={channels}")
        self.reach = None
        self.groups = groups
        self.theta = nn.Conv3d(channels, channels // 2, 1, bias=False)
        self.phi = nn.Conv3d(channels, channels // 2, 1, bias=False)
        self.g = nn.Conv3d(channels, channels // 2, 1, bias=False)
        self.out = nn.Conv3d(channels // 2, channels, 1, bias=False)
        self.norm = nn.GroupNorm(groups, channels)
        for conv in (self.theta, self.phi, self.g, self.out):
            nn.init.kaiming_normal_(conv.weight, nonlinearity="linear")
        nn.init.constant_(self.norm.weight, norm_init)

    def forward(self, x_NCTHW: Tensor, units: int) -> Tensor:
        check_units(x_NCTHW, units)
        x_BCUTS = units_as_depth(x_NCTHW, units)
        theta, phi, g = (layer(x_BCUTS) for layer in (self.theta, self.phi, self.g))
        # In float32 whatever the features are: a long sum of products.
        relation_BD = (phi.float() * g.float()).mean(dim=(2, 3, 4))
        relation_BG = relation_BD.unflatten(1, (self.groups, -1)).mean(dim=2)
        of_channel_BD = relation_BG.repeat_interleave(relation_BD.shape[1] // self.groups, dim=1).to(theta.dtype)
        y_BCUTS = self.norm(self.out(theta * of_channel_BD[:, :, None, None, None]))
        z_NCTHW: Tensor = x_NCTHW + units_as_batch(y_BCUTS, x_NCTHW.shape[-2:]).to(x_NCTHW.dtype)
        return z_NCTHW
