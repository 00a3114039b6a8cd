"""One training step: a network, its optimizer, and what is done with a batch."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import get_total_norm

from pipelines import Batch
from v4d.config import Recipe
from v4d.models.network import V4D


def build(recipe: Recipe, classes: int, device: torch.device) -> tuple[V4D, torch.optim.SGD]:
    """A recipe's network, with weights drawn from ``train.seed``, and its optimizer."""
    torch.manual_seed(recipe.train.seed)
    model = V4D(recipe.model, classes).to(device)
    if recipe.train.channels_last:
        model = model.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
    optimizer = torch.optim.SGD(
        model.parameters(),
        lr=recipe.optim.lr,
        momentum=recipe.optim.momentum,
        weight_decay=recipe.optim.weight_decay,
        nesterov=recipe.optim.nesterov,
    )
    return model, optimizer


def train_step(
    compute: Callable[..., Tensor],
    optimizer: torch.optim.Optimizer,
    batch: Batch,
    recipe: Recipe,
    device: torch.device,
    valid: int,
    ranks: int,
) -> tuple[Tensor, Tensor]:
    """Learn from a batch with ``compute``, the network or what stands for it on one of ``ranks``.

    Returns, on the device, this rank's share of the mean loss over the ``valid`` videos of the global batch and how
    many videos it told right.
    """
    x = batch.x if recipe.train.channels_last else batch.x.contiguous()
    labels_B = batch.labels_B.to(device, non_blocking=True)
    with torch.autocast(device.type, torch.bfloat16, enabled=recipe.train.precision == "bf16"):
        logits_BK = compute(x, recipe.data.units)
    loss = F.cross_entropy(logits_BK.float(), labels_B, ignore_index=-1, reduction="sum") / valid
    optimizer.zero_grad(set_to_none=True)
    # DDP averages gradients over ranks; each rank's loss is its share of the global mean.
    (loss * ranks).backward()
    optimizer.step()
    return loss.detach(), (logits_BK.argmax(dim=1) == labels_B).sum()


def gradient_norm(model: nn.Module) -> Tensor:
    """The L2 norm of all gradients that the last step left in ``model``, a scalar on its device; nothing waits."""
    return get_total_norm([parameter.grad for parameter in model.parameters() if parameter.grad is not None])
