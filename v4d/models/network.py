"""The networks of the paper: I3D-S ResNet (Table 1), TSN on it, and V4D, which are one class with other settings.

Shape suffixes: B videos, U action units of a video, N = B·U, C channels, T frames of a unit, H, W, K classes.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from v4d.config import RESIDUAL_BLOCKS, ModelConfig
from v4d.models.block_kinds import make_block
from v4d.models.conv3d import Conv3d
from v4d.models.frames import FrameConv
from v4d.models.recomputing import run
from v4d.models.stem import Stem
from v4d.models.units import InterUnitBlock, check_units


def _conv(inputs: int, outputs: int, kernel: tuple[int, int, int], stride: int = 1) -> nn.Conv3d:
    padding = (kernel[0] // 2, kernel[1] // 2, kernel[2] // 2)
    kind = FrameConv if kernel[0] == 1 else Conv3d
    return kind(inputs, outputs, kernel, stride=(1, stride, stride), padding=padding, bias=False)


class _BasicBlock(nn.Module):
    """Two 3×3 convolutions in space, each 3 frames deep where ``temporal`` is 3 (He et al., CVPR 2016)."""

    expansion = 1

    def __init__(self, inputs: int, width: int, stride: int, temporal: int) -> None:
        super().__init__()
        self.conv1 = _conv(inputs, width, (temporal, 3, 3), stride)
        self.norm1 = nn.BatchNorm3d(width)
        self.conv2 = _conv(width, width, (temporal, 3, 3))
        self.norm2 = nn.BatchNorm3d(width)
        self.shortcut = _shortcut(inputs, width, stride)

    def forward(self, x_NCTHW: Tensor) -> Tensor:
        y = F.relu(self.norm1(self.conv1(x_NCTHW)), inplace=True)
        return F.relu(self.norm2(self.conv2(y)) + self.shortcut(x_NCTHW), inplace=True)


class _Bottleneck(nn.Module):
    """1×1, 3×3, 1×1 in space; the first is 3 frames deep where ``temporal`` is 3."""

    expansion = 4

    def __init__(self, inputs: int, width: int, stride: int, temporal: int) -> None:
        super().__init__()
        self.conv1 = _conv(inputs, width, (temporal, 1, 1))
        self.norm1 = nn.BatchNorm3d(width)
        self.conv2 = _conv(width, width, (1, 3, 3), stride)
        self.norm2 = nn.BatchNorm3d(width)
        self.conv3 = _conv(width, width * self.expansion, (1, 1, 1))
        self.norm3 = nn.BatchNorm3d(width * self.expansion)
        self.shortcut = _shortcut(inputs, width * self.expansion, stride)

    def forward(self, x_NCTHW: Tensor) -> Tensor:
        y = F.relu(self.norm1(self.conv1(x_NCTHW)), inplace=True)
        y = F.relu(self.norm2(self.conv2(y)), inplace=True)
        return F.relu(self.norm3(self.conv3(y)) + self.shortcut(x_NCTHW), inplace=True)


def _shortcut(inputs: int, outputs: int, stride: int) -> nn.Module:
    if inputs == outputs and stride == 1:
        return nn.Identity()
    return nn.Sequential(_conv(inputs, outputs, (1, 1, 1), stride), nn.BatchNorm3d(outputs))


class V4D(nn.Module):
    """I3D-S ResNet with residual 4D blocks after some of its residual blocks.

    ``layers`` holds every layer below the head in order: ``stem``, ``res2_0``, ... and ``res3_1_4d`` for a 4D block
    after ``res3.1``, of whatever kind the configuration says. Without 4D blocks this is TSN on I3D-S, for pooling the
    features of all units before a linear layer is averaging the units' scores. ``classes`` names the scores in order
    where that is known, else it is empty.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, config: ModelConfig, num_classes: int) -> None:
        super().__init__()
        self.config, self.num_classes = config, num_classes
        self.classes: tuple[str, ...] = ()
        block: type[_BasicBlock] | type[_Bottleneck] = _BasicBlock if config.depth == 18 else _Bottleneck
        layers: dict[str, nn.Module] = {"stem": Stem(config.base_width)}
        channels = config.base_width
        for stage, count in enumerate(RESIDUAL_BLOCKS[config.depth], 2):
            width, temporal = config.base_width << (stage - 2), 3 if stage >= 4 else 1
            for i in range(count):
                stride = 2 if i == 0 and stage > 2 else 1
                layers[f"res{stage}_{i}"] = block(channels, width, stride, temporal)
                channels = width * block.expansion
                if f"res{stage}.{i}" in config.blocks_4d:
                    layers[f"res{stage}_{i}_4d"] = make_block(
                        *(config.block_4d, channels, config.kernel_4d, config.norm_init_4d),
                        norm=config.norm_4d,
                        activation=config.norm_4d,
                    )
        self.layers = nn.ModuleDict(layers)
        self._below, self._stages = _parted(self.layers)
        self.num_features = channels
        self.dropout = nn.Dropout(config.dropout)
        self.classifier = nn.Linear(channels, num_classes)
        self.register_buffer("mean", torch.tensor(config.mean).view(1, 3, 1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(config.std).view(1, 3, 1, 1, 1), persistent=False)
        self._initialise()

    def _initialise(self) -> None:
        for name, layer in self.layers.items():
            # The blocks that relate units start as they see fit.
            for module in layer.modules() if not name.endswith("_4d") else ():
                if isinstance(module, nn.Conv3d):
                    nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        _initialise_classifier(self.classifier)

    def reset_classifier(self, num_classes: int) -> None:
        """A fresh linear layer for ``num_classes``, on the device and of the dtype of the one before.

        Raises ValueError if ``num_classes`` is below 1.
        """
        if num_classes < 1:
            raise ValueError(f"num_classes must be 1 or more, not {num_classes}")
        weight = self.classifier.weight
        self.num_classes, self.classes = num_classes, ()
        self.classifier = nn.Linear(self.num_features, num_classes, device=weight.device, dtype=weight.dtype)
        _initialise_classifier(self.classifier)

    @property
    def layers_below(self) -> list[nn.Module]:
        """The layers before the first block that relates units: N3D of Algorithm 1."""
        return [self.layers[name] for name in self._below]

    @property
    def stages_4d(self) -> list[tuple[InterUnitBlock, list[nn.Module]]]:
        """N4D of Algorithm 1: each block that relates units, with the layers after it that see each unit by itself."""
        found = []
        for block_name, names in self._stages:
            block = self.layers[block_name]
            assert isinstance(block, InterUnitBlock)
            found.append((block, [self.layers[name] for name in names]))
        return found

    def forward(self, x_NCTHW: Tensor, units: int) -> Tensor:
        """Scores before softmax, (B, K), of videos of ``units`` action units each.

        ``x_NCTHW`` holds pixels, 0 to 255, uint8 or floating. Raises ValueError if ``units`` do not divide N.
        """
        check_units(x_NCTHW, units)
        return self.forward_head(self.forward_features(x_NCTHW, units), units)

    def forward_features(self, x_NCTHW: Tensor, units: int) -> Tensor:
        """Features of the last layer below the head, (N, C, T, H, W)."""
        return self.forward_above(self.forward_below(x_NCTHW), units)

    def forward_below(self, x_NCTHW: Tensor) -> Tensor:
        """The layers below the first 4D block, N3D of Algorithm 1: each unit by itself.

        Raises ValueError if ``x_NCTHW`` is not (N, 3, T, H, W).
        """
        if x_NCTHW.ndim != 5 or x_NCTHW.shape[1] != 3:
            raise ValueError(f"x is {tuple(x_NCTHW.shape)}, not the (N, 3, T, H, W) of pixels")
        y = (x_NCTHW.to(self.mean.dtype) - self.mean) / self.std
        for layer in self.layers_below:
            y = run(layer, y)
        return y

    def forward_above(self, x_NCTHW: Tensor, units: int, first_stage: int = 0) -> Tensor:
        """The layers from the first 4D block to the head, N4D of Algorithm 1, or from a later one of ``stages_4d``."""
        for block, layers in self.stages_4d[first_stage:]:
            x_NCTHW = run(block, x_NCTHW, units)
            for layer in layers:
                x_NCTHW = run(layer, x_NCTHW)
        return x_NCTHW

    def forward_head(self, x_NCTHW: Tensor, units: int) -> Tensor:
        """Global average over all units of a video, dropout and the linear layer: (B, K)."""
        return self.classify(self.pool(x_NCTHW, units))

    def pool(self, x_NCTHW: Tensor, units: int) -> Tensor:
        """Mean over the units and positions of each video, (B, C); with units=1 of each unit, (N, C)."""
        check_units(x_NCTHW, units)
        video_BC: Tensor = x_NCTHW.mean(dim=(2, 3, 4)).unflatten(0, (-1, units)).mean(dim=1)
        return video_BC

    def classify(self, video_BC: Tensor) -> Tensor:
        """Dropout and the linear layer: (B, K)."""
        logits_BK: Tensor = self.classifier(self.dropout(video_BC))
        return logits_BK


def _parted(layers: nn.ModuleDict) -> tuple[list[str], list[tuple[str, list[str]]]]:
    """The names of ``layers_below``, and of ``stages_4d``."""
    below: list[str] = []
    stages: list[tuple[str, list[str]]] = []
    for name, layer in layers.items():
        if isinstance(layer, InterUnitBlock):
            stages.append((name, []))
        else:
            (stages[-1][1] if stages else below).append(name)
    return below, stages


def _initialise_classifier(classifier: nn.Linear) -> None:
    nn.init.normal_(classifier.weight, std=0.01)
    nn.init.zeros_(classifier.bias)
