"""Networks of other projects, which v4d's are compared with."""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType

from torch import nn


def pytorchvideo_hub() -> ModuleType:
    """pytorchvideo's networks. Raises ImportError where it is not installed.

    It imports one operator of torchvision, for detection, which none of those used here runs: where torchvision is not
    installed, an empty module stands in for it meanwhile.
    """
    stand_ins: dict[str, ModuleType] = {}
    if find_spec("torchvision") is None:
        stand_ins = {name: ModuleType(name) for name in ("torchvision", "torchvision.ops")}
        stand_ins["torchvision.ops"].RoIAlign = nn.Identity  # type: ignore[attr-defined]
    sys.modules.update(stand_ins)
    try:
        return import_module("pytorchvideo.models.hub")
    finally:
        for name in stand_ins:
            del sys.modules[name]


def slow_r50() -> nn.Module:
    """The slow pathway with ResNet-50, (N, 3, 8, 224, 224) to (N, 400), with random weights."""
    network: nn.Module = pytorchvideo_hub().slow_r50()
    return network
