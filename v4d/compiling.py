"""Networks by torch.compile, with settings that make it faster on a GPU (docs/measurements.md)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from v4d.config import TrainConfig

# The torch that was seen to compile recomputed stages for several ranks with gradients summed on the way.
_SPLITS_RECOMPUTED = "2.13"
# Where residual blocks join, a norm's gradient reads nine tensors. By its own limits (8 and 4) torch's inductor breaks
# there in float32, writes and reads that, and sums the gradients that meet there again in each kernel that wants them.
_ON_GPU: dict[str, Any] = {"realize_acc_reads_threshold": 32, "realize_reads_threshold": 2}
_TUNED = "coordinate_descent_tuning"


def compiled(network: nn.Module, config: TrainConfig, ranks: int = 1) -> Callable[..., Tensor]:
    """``network``, which may be DDP's, for a step to call: as it is without ``compile``."""
    if not config.compile:
        return network
    if ranks > 1 and config.checkpoint_stages and torch.__version__ < _SPLITS_RECOMPUTED:
        from torch._dynamo import config as dynamo

        # Older ones refuse to split what is recomputed (pytorch/pytorch#104674). Whole, it sums its gradients at its
        # end alone.
        dynamo.optimize_ddp = False
    if not next(network.parameters()).is_cuda:
        return torch.compile(network)
    return torch.compile(network, options=_ON_GPU | ({_TUNED: True} if config.autotune else {}))
