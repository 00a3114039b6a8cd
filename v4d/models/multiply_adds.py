"""How many multiply-adds a computation takes, counted as it runs on the meta device, where nothing is computed.

The rule: a multiply-add is one product and its addition in a convolution, a linear layer or an attention. The rest of
the network, which the paper includes, is counted in single operations for each element of the output: 2 for a norm
(scale and shift), 1 for an activation or an addition, and as many as its window has places for a max-pool.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from v4d.config import ModelConfig
from v4d.models.network import V4D

_aten = torch.ops.aten


@dataclass(frozen=True)
class MultiplyAdds:
    """``products`` of convolutions, linear layers and attention; ``elementwise`` is the rest."""

    products: int
    elementwise: int

    @property
    def total(self) -> int:
        return self.products + self.elementwise


def count_multiply_adds(compute: Callable[[], object]) -> MultiplyAdds:
    """What ``compute``, run once on tensors of the meta device (or any other), takes."""
    elementwise = 0

    def of(per_element: Callable[..., int]) -> Callable[..., int]:
        def add(*shapes: Any, out_shape: Any = None, **_: Any) -> int:
            nonlocal elementwise
            # A norm and a max-pool give more than one output; the first is the one that counts.
            first = out_shape[0] if isinstance(out_shape[0], torch.Size | tuple | list) else out_shape
            elementwise += prod(first) * per_element(*shapes)
            return 0

        return add

    rules: dict[Any, Callable[..., int]] = {
        _aten.relu: lambda *_: 1,
        _aten.relu_: lambda *_: 1,
        _aten.add: lambda *_: 1,
        _aten.add_: lambda *_: 1,
        _aten.native_batch_norm: lambda *_: 2,
        _aten._native_batch_norm_legit_no_training: lambda *_: 2,
        _aten.native_group_norm: lambda *_: 2,
        _aten.max_pool3d_with_indices: lambda _x, window, *_: prod(window),
        _aten.max_pool2d_with_indices: lambda _x, window, *_: prod(window),
    }
    with FlopCounterMode(display=False, custom_mapping={op: of(rule) for op, rule in rules.items()}) as counter:
        with torch.no_grad():
            compute()
    # The counter has 2 for each product and its addition.
    return MultiplyAdds(counter.get_total_flops() // 2, elementwise)


def on_meta(config: ModelConfig, num_classes: int, units: int, frames: int, crop: int) -> tuple[V4D, Tensor]:
    """A network for test, without memory, and one video for it, (units, 3, frames, crop, crop)."""
    with torch.device("meta"):
        return V4D(config, num_classes).eval(), torch.empty(units, 3, frames, crop, crop)
