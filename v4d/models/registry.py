"""Every network of the paper by name, with the setting it is trained and tested with."""

from __future__ import annotations

import fnmatch
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from v4d.config import DataConfig, ModelConfig, nearest
from v4d.models.network import V4D


@dataclass(frozen=True)
class Registered:
    """A network and what it sees of a video: ``data`` in training, ``units_infer`` units in test (section 4.1).

    The strides are this project's: 8, and 2 for units of 32 frames.
    """

    model: ModelConfig
    data: DataConfig
    units_infer: int = 10


_EVERY_OTHER = ("res3.1", "res3.3", "res4.1", "res4.3", "res4.5")


def _resnet18(units: int, **model: Any) -> Registered:
    return Registered(ModelConfig(depth=18, **model), DataConfig(units=units, frames=4, stride=8))


def _resnet50(units: int, **model: Any) -> Registered:
    return Registered(ModelConfig(depth=50, **model), DataConfig(units=units, frames=8, stride=8))


def _one_long_unit(**model: Any) -> Registered:
    return Registered(ModelConfig(depth=50, **model), DataConfig(units=1, frames=32, stride=2))


_NETWORKS = {
    "i3d_s_resnet18": _resnet18(1, blocks_4d=()),
    # A 4D block that spans one unit is the extra 3×3×3 convolution.
    "i3d_s_resnet18_plus_plus": _resnet18(1, blocks_4d=("res4.1",), kernel_4d=(1, 3, 3, 3)),
    "i3d_s_resnet50": _resnet50(1, blocks_4d=()),
    "i3d_s_resnet50_cgnl": _one_long_unit(blocks_4d=_EVERY_OTHER, block_4d="cgnl"),
    "i3d_s_resnet50_nonlocal": _one_long_unit(blocks_4d=_EVERY_OTHER, block_4d="nonlocal"),
    "tsn_resnet18": _resnet18(4, blocks_4d=()),
    "tsn_resnet50": _resnet50(4, blocks_4d=()),
    "v4d_resnet18": _resnet18(4, blocks_4d=("res3.1", "res4.1")),
    "v4d_resnet50": _resnet50(4, blocks_4d=_EVERY_OTHER),
}


def list_models(pattern: str = "") -> list[str]:
    """The names that match ``pattern``, as in ``v4d_*``, in order; without one all of them."""
    return sorted(name for name in _NETWORKS if fnmatch.fnmatchcase(name, pattern or "*"))


def registered(name: str) -> Registered:
    """The configuration and the setting of a network. Raises ValueError, with the nearest name, if there is none."""
    if name not in _NETWORKS:
        raise ValueError(f"there is no model '{name}'{nearest(name, list_models())}; there are {', '.join(_NETWORKS)}")
    return _NETWORKS[name]


def create_model(name: str, num_classes: int = 400, **overrides: Any) -> V4D:
    """A network with fresh weights; ``overrides`` are fields of ModelConfig, as in ``dropout=0.0``.

    Its ``forward(x_NCTHW, units)`` takes pixels. Raises ValueError for an unknown name or field, with the nearest one,
    and for a value that cannot be.
    """
    if num_classes < 1:
        raise ValueError(f"num_classes must be 1 or more, not {num_classes}")
    base = registered(name).model.model_dump()
    for field in overrides:
        if field not in base:
            raise ValueError(f"model '{name}' has no '{field}'{nearest(field, list(base))}; it has {', '.join(base)}")
    try:
        config = ModelConfig.model_validate({**base, **overrides})
    except ValidationError as error:
        first = error.errors()[0]
        message = first["msg"].removeprefix("Value error, ")
        where = "".join(f"{part}: " for part in first["loc"][:1])
        raise ValueError(f"model '{name}': {where}{message}, not {first['input']!r}"[:500]) from None
    return V4D(config, num_classes)
