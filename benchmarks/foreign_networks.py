"""Networks of other projects, which v4d's are compared with."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from types import ModuleType

from torch import nn


def slow_r50() -> nn.Module:
    """pytorchvideo's slow pathway with ResNet-50, (N, 3, 8, 224, 224) to (N, 400), with random weights.

    pytorchvideo imports one operator of torchvision, for detection, which this network does not run: where torchvision
    is not installed, an empty module stands in for it. Raises ImportError where pytorchvideo is not installed.
    """
    if find_spec("torchvision") is None:
        operators = ModuleType("torchvision.ops")
        operators.RoIAlign = nn.Identity  # type: ignore[attr-defined]
        sys.modules.setdefault("torchvision", ModuleType("torchvision"))
        sys.modules.setdefault("torchvision.ops", operators)
    from pytorchvideo.models.hub import slow_r50 as make

    network: nn.Module = make()
    return network
