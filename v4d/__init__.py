"""Networks, training and evaluation.

The names below are loaded when they are first used: the command line imports this package, and its short commands
should not wait for torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from v4d.inference import video_scores
    from v4d.models.cast import Cast4d, cast_to_4d
    from v4d.models.conv4d import Conv4d, conv4d
    from v4d.models.generalized_nonlocal import CompactGeneralizedNonLocalBlock
    from v4d.models.network import V4D
    from v4d.models.nonlocal_block import NonLocalBlock
    from v4d.models.registry import create_model, list_models
    from v4d.models.residual_4d import Residual4dBlock
    from v4d.models.units import InterUnitBlock
    from v4d.weights.weights_file import WeightsInfo, load_pretrained, read_weights_info, save_weights

_HOMES = {
    "V4D": "v4d.models.network",
    "Cast4d": "v4d.models.cast",
    "CompactGeneralizedNonLocalBlock": "v4d.models.generalized_nonlocal",
    "Conv4d": "v4d.models.conv4d",
    "InterUnitBlock": "v4d.models.units",
    "NonLocalBlock": "v4d.models.nonlocal_block",
    "Residual4dBlock": "v4d.models.residual_4d",
    "WeightsInfo": "v4d.weights.weights_file",
    "cast_to_4d": "v4d.models.cast",
    "conv4d": "v4d.models.conv4d",
    "create_model": "v4d.models.registry",
    "list_models": "v4d.models.registry",
    "load_pretrained": "v4d.weights.weights_file",
    "read_weights_info": "v4d.weights.weights_file",
    "save_weights": "v4d.weights.weights_file",
    "video_scores": "v4d.inference",
}

__all__ = [
    "V4D",
    "Cast4d",
    "CompactGeneralizedNonLocalBlock",
    "Conv4d",
    "InterUnitBlock",
    "NonLocalBlock",
    "Residual4dBlock",
    "WeightsInfo",
    "cast_to_4d",
    "conv4d",
    "create_model",
    "list_models",
    "load_pretrained",
    "read_weights_info",
    "save_weights",
    "video_scores",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'v4d' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
