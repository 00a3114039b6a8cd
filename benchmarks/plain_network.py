"""V4D written plainly: Conv3d in the default layout, and a loop over units for the 4D convolution.

It is what one writes from the paper without thinking of speed, and what the networks of v4d are compared with.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from v4d.config import RESIDUAL_BLOCKS, ModelConfig


class PlainConv4d(nn.Module):
    """k×k×1×1 or any other kernel, as a sum of 3D convolutions of neighbouring units."""

    def __init__(self, channels: int, kernel: tuple[int, int, int, int]) -> None:
        super().__init__()
        units, frames, height, width = kernel
        self.convs = nn.ModuleList(_conv(channels, channels, (frames, height, width), 1) for _ in range(units))

    def forward(self, x_BCUTHW: Tensor) -> Tensor:
        units, reach = x_BCUTHW.shape[2], len(self.convs) // 2
        outputs = []
        for unit in range(units):
            beside = range(max(0, unit - reach), min(units, unit + reach + 1))
            outputs.append(sum(self.convs[other - unit + reach](x_BCUTHW[:, :, other]) for other in beside))
        return torch.stack(outputs, dim=2)


class PlainResidual4d(nn.Module):
    """Y = ReLU(X + BN(conv4d(X))) on (B, C, U, T, H, W), to and from which units are permuted with a copy."""

    def __init__(self, channels: int, kernel: tuple[int, int, int, int], norm_init: float) -> None:
        super().__init__()
        self.conv, self.norm = PlainConv4d(channels, kernel), nn.BatchNorm3d(channels)
        nn.init.constant_(self.norm.weight, norm_init)

    def forward(self, x_NCTHW: Tensor, units: int) -> Tensor:
        x_BCUTHW = x_NCTHW.unflatten(0, (-1, units)).permute(0, 2, 1, 3, 4, 5).contiguous()
        y_NCTHW = self.conv(x_BCUTHW).permute(0, 2, 1, 3, 4, 5).contiguous().flatten(0, 1)
        return F.relu(x_NCTHW + self.norm(y_NCTHW))


class _PlainBlock(nn.Module):
    """A basic block or a bottleneck."""

    def __init__(self, inputs: int, outputs: int, layers: list[tuple[int, tuple[int, int, int], int]]) -> None:
        super().__init__()
        body: list[nn.Module] = []
        channels, stride = inputs, 1
        for width, kernel, step in layers:
            body += [_conv(channels, width, kernel, step), nn.BatchNorm3d(width), nn.ReLU(inplace=True)]
            channels, stride = width, stride * step
        self.body = nn.Sequential(*body[:-1])
        self.shortcut = nn.Sequential()
        if inputs != outputs or stride > 1:
            self.shortcut = nn.Sequential(_conv(inputs, outputs, (1, 1, 1), stride), nn.BatchNorm3d(outputs))

    def forward(self, x_NCTHW: Tensor) -> Tensor:
        return F.relu(self.body(x_NCTHW) + self.shortcut(x_NCTHW))


def _conv(inputs: int, outputs: int, kernel: tuple[int, int, int], stride: int) -> nn.Conv3d:
    padding = (kernel[0] // 2, kernel[1] // 2, kernel[2] // 2)
    return nn.Conv3d(inputs, outputs, kernel, (1, stride, stride), padding, bias=False)


class PlainV4D(nn.Module):
    """The network of a ModelConfig; its convolutions and norms come in the same order as those of v4d's own."""

    def __init__(self, config: ModelConfig, num_classes: int) -> None:
        super().__init__()
        width = config.base_width
        self.stem = nn.Sequential(
            _conv(3, width, (1, 7, 7), 2),
            nn.BatchNorm3d(width),
            nn.ReLU(inplace=True),
            nn.MaxPool3d((1, 3, 3), (1, 2, 2), (0, 1, 1)),
        )
        self.layers = nn.ModuleList()
        channels = width
        for stage, i in ((s, i) for s, count in enumerate(RESIDUAL_BLOCKS[config.depth], 2) for i in range(count)):
            inner, depth = width << (stage - 2), 3 if stage >= 4 else 1
            stride = 2 if i == 0 and stage > 2 else 1
            if config.depth == 18:
                outputs = inner
                layers = [(inner, (depth, 3, 3), stride), (inner, (depth, 3, 3), 1)]
            else:
                outputs = 4 * inner
                layers = [(inner, (depth, 1, 1), 1), (inner, (1, 3, 3), stride), (outputs, (1, 1, 1), 1)]
            self.layers.append(_PlainBlock(channels, outputs, layers))
            channels = outputs
            if f"res{stage}.{i}" in config.blocks_4d:
                self.layers.append(PlainResidual4d(channels, config.kernel_4d, config.norm_init_4d))
        are_4d = [isinstance(layer, PlainResidual4d) for layer in self.layers]
        self._first_4d = are_4d.index(True) if True in are_4d else len(are_4d)
        self.dropout, self.classifier = nn.Dropout(config.dropout), nn.Linear(channels, num_classes)
        self.register_buffer("mean", torch.tensor(config.mean).view(1, 3, 1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(config.std).view(1, 3, 1, 1, 1), persistent=False)

    def forward(self, x_NCTHW: Tensor, units: int) -> Tensor:
        """Scores (B, K) of pixels (B·U, 3, T, H, W)."""
        return self.forward_above(self.forward_below(x_NCTHW), units)

    def forward_below(self, x_NCTHW: Tensor) -> Tensor:
        """The layers before the first 4D block."""
        x: Tensor = self.stem((x_NCTHW.float() - self.get_buffer("mean")) / self.get_buffer("std"))
        for layer in self.layers[: self._first_4d]:
            x = layer(x)
        return x

    def forward_above(self, x_NCTHW: Tensor, units: int) -> Tensor:
        """The layers from the first 4D block on, and the scores."""
        for layer in self.layers[self._first_4d :]:
            x_NCTHW = layer(x_NCTHW, units) if isinstance(layer, PlainResidual4d) else layer(x_NCTHW)
        video_BC = x_NCTHW.mean(dim=(2, 3, 4)).unflatten(0, (-1, units)).mean(dim=1)
        scores: Tensor = self.classifier(self.dropout(video_BC))
        return scores
