"""Layers whose activations are computed again for the gradient, and not kept (Chen et al., "Training deep nets with
sublinear memory cost", 2016)."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

_MARK = "recomputed"


def recompute_stages(layers: nn.ModuleDict, stages: Collection[str]) -> None:
    """Have the layers of ``stages`` recomputed, as in "res2"; gradients and norms' statistics stay what they are.

    A stage's layers are those whose name begins with it, its 4D blocks among them.
    """
    for name, layer in layers.items():
        # A plain attribute: copies of the network keep it.
        setattr(layer, _MARK, name.split("_")[0] in stages)


def run(layer: nn.Module, *inputs: Tensor | int) -> Tensor:
    """``layer(*inputs)``, recomputed in the backward pass if it is marked so."""
    if not getattr(layer, _MARK, False) or not torch.is_grad_enabled():
        return layer(*inputs)  # type: ignore[no-any-return]
    # The compiler writes to the statistics once, however often it computes; and takes no contexts.
    output: Tensor
    if torch.compiler.is_compiling():
        output = checkpoint(layer, *inputs, use_reentrant=False, preserve_rng_state=False)
        return output
    contexts = partial(_contexts, layer)
    output = checkpoint(layer, *inputs, use_reentrant=False, preserve_rng_state=False, context_fn=contexts)
    return output


def _contexts(layer: nn.Module) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    return nullcontext(), _statistics_kept(layer)


@contextmanager
def _statistics_kept(layer: nn.Module) -> Iterator[None]:
    """The second time the batch must not count in the norms' running statistics."""
    norms = [m for m in layer.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    # A synchronised norm wants its count, so that is put back and not taken away.
    were = [(norm.momentum, _copy_of(norm.num_batches_tracked)) for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, (momentum, count) in zip(norms, were, strict=True):
            norm.momentum = momentum
            if norm.num_batches_tracked is not None and count is not None:
                norm.num_batches_tracked.copy_(count)


def _copy_of(count: Tensor | None) -> Tensor | None:
    return None if count is None else count.clone()
