"""One training step: a network, its optimizer, and what is done with a batch."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_, get_total_norm
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from pipelines import Batch
from preprocess.errors import UsageError
from v4d.config import Recipe, nearest
from v4d.losses import Targets, targets_of
from v4d.mixing import Mixing, draw_mixing, partners
from v4d.models.network import V4D
from v4d.models.recomputing import recompute_stages
from v4d.precision import autocast


def build(recipe: Recipe, classes: int, device: torch.device) -> tuple[V4D, torch.optim.SGD]:
    """A recipe's network, with weights drawn from ``train.seed``, and its optimizer.

    Raises UsageError if a pattern of ``optim.frozen`` is of no parameter, or together they are of all.
    """
    torch.manual_seed(recipe.train.seed)
    # Batches are all of one size: the fastest kernels are found once.
    torch.backends.cudnn.benchmark = True
    model = V4D(recipe.model, classes).to(device)
    if recipe.train.channels_last:
        model = model.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
    recompute_stages(model.layers, recipe.train.checkpoint_stages)
    _freeze(model, recipe.optim.frozen)
    optimizer = torch.optim.SGD(
        _parameters(model, recipe.optim.decay_norms),
        lr=recipe.optim.lr,
        momentum=recipe.optim.momentum,
        weight_decay=recipe.optim.weight_decay,
        nesterov=recipe.optim.nesterov,
        fused=device.type == "cuda",
    )
    return model, optimizer


def _freeze(model: V4D, patterns: tuple[str, ...]) -> None:
    names = [name for name, _ in model.named_parameters()]
    for pattern in patterns:
        found = [name for name in names if fnmatchcase(name, pattern)]
        if not found:
            raise UsageError(f"optim.frozen: no parameter is named '{pattern}'{nearest(pattern, names)}")
        for name in found:
            model.get_parameter(name).requires_grad_(False)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise UsageError("optim.frozen holds all parameters: there is nothing to train")


def _parameters(model: V4D, decay_norms: bool) -> list[dict[str, Any]]:
    """Those that are trained; in two groups if norms and biases, which have one dimension, are not to decay."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if decay_norms:
        return [{"params": trained}]
    kernels = [parameter for parameter in trained if parameter.ndim > 1]
    others = [parameter for parameter in trained if parameter.ndim <= 1]
    return [{"params": kernels}, {"params": others, "weight_decay": 0.0}]


@dataclass(frozen=True)
class Learned:
    """What a step says, on the device, each ().

    ``loss`` is this rank's share of the mean loss over the videos of the global batch, ``correct`` how many of its
    videos were told right.
    """

    loss: Tensor
    correct: Tensor


class Learner:
    """A network that learns, on one of ``ranks``, with what is kept from step to step besides it and its optimizer.

    ``network`` is what is validated and kept: the moving average of the weights where ``train.ema`` asks for one, else
    the model itself. The average is over norms' statistics too.
    """

    def __init__(
        self,
        recipe: Recipe,
        model: V4D,
        optimizer: torch.optim.Optimizer,
        compute: Callable[..., Tensor] | None = None,
        ranks: int = 1,
    ) -> None:
        """``compute`` is what stands for ``model`` in training: compiled, or of several ranks."""
        self._recipe, self._model, self._optimizer, self._ranks = recipe, model, optimizer, ranks
        self._compute = model if compute is None else compute
        self._device = model.classifier.weight.device
        self._trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self._scaler = torch.amp.GradScaler(self._device.type, enabled=recipe.train.precision == "fp16")
        self._unclipped: Tensor | None = None
        # Before its first update it is the model as it is here, and that update takes the model as it is then.
        self._average: AveragedModel | None = None
        if recipe.train.ema:
            average = get_ema_multi_avg_fn(recipe.train.ema)
            self._average = AveragedModel(model, multi_avg_fn=average, use_buffers=True)

    @property
    def network(self) -> V4D:
        """See above."""
        return self._model if self._average is None else cast(V4D, self._average.module)

    def state_dict(self) -> dict[str, Any]:
        """What there is to go on from, besides ``network`` and the optimizer: all of it loads with weights_only."""
        state: dict[str, Any] = {}
        if self._scaler.is_enabled():
            state["scaler"] = self._scaler.state_dict()
        if self._average is not None:
            state["trained"] = self._model.state_dict()
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where ``state`` was taken; the model must have the weights that ``network`` had when this was made."""
        if self._scaler.is_enabled():
            self._scaler.load_state_dict(state["scaler"])
        if self._average is not None:
            self._average.n_averaged.fill_(1)
            self._model.load_state_dict(state["trained"])

    def step(self, batch: Batch, step: int, valid: int) -> Learned:
        """Learn from a batch, at a step counted from 0 over the run.

        The gradient is that of the mean loss over the ``valid`` videos of the global batch.
        """
        config = self._recipe.train
        x = batch.x if config.channels_last else batch.x.contiguous()
        targets = targets_of(batch, config, self._model.num_classes, self._device)
        mixing = draw_mixing(config, step, (x.shape[-2], x.shape[-1]))
        partners_B = partners(batch.labels_B)
        if mixing:
            x = mixing.pixels(x, partners_B)
        self._optimizer.zero_grad(set_to_none=True)
        losses, correct = [], []
        parts = list(_parts(len(batch.labels_B), config.micro_batch))
        for part in parts:
            # Several ranks sum their gradients once, with those of the last part.
            apart = getattr(self._compute, "no_sync", nullcontext) if part is not parts[-1] else nullcontext
            with apart():
                units = slice(part.start * self._recipe.data.units, part.stop * self._recipe.data.units)
                with autocast(config.precision, self._device):
                    logits_BK = self._compute(x[units], self._recipe.data.units)
                loss = _loss(logits_BK.float(), targets, part, mixing, partners_B) / valid
                # DDP averages gradients over ranks; each rank's loss is its share of the global mean.
                self._scaler.scale(loss * self._ranks).backward()
            losses.append(loss.detach())
            correct.append(targets.at(part).hits(logits_BK).sum())
        self._update()
        return Learned(sum(losses[1:], losses[0]), sum(correct[1:], correct[0]))

    def gradient_norm(self) -> Tensor:
        """The norm of the last step's gradient of all parameters on all ranks, before clipping: (), on the device."""
        if self._unclipped is not None:
            return self._unclipped
        return get_total_norm([p.grad for p in self._trained if p.grad is not None])

    def _update(self) -> None:
        """Change the weights by their gradients."""
        self._scaler.unscale_(self._optimizer)
        if self._recipe.optim.clip_norm:
            self._unclipped = clip_grad_norm_(self._trained, self._recipe.optim.clip_norm)
        self._scaler.step(self._optimizer)
        self._scaler.update()
        if self._average is not None:
            self._average.update_parameters(self._model)


def _parts(videos: int, most: int) -> Iterator[slice]:
    """So many videos in as few parts as hold no more than ``most`` each, as even as can be."""
    count = math.ceil(videos / most) if most else 1
    for i in range(count):
        yield slice(i * videos // count, (i + 1) * videos // count)


def _loss(logits_BK: Tensor, targets: Targets, part: slice, mixing: Mixing | None, partners_B: Tensor) -> Tensor:
    """The sum of the losses of the videos of a part, of which each is also to be told for its partner."""
    own = targets.at(part).loss(logits_BK)
    if mixing is None:
        return own
    theirs = targets.at(partners_B[part].to(logits_BK.device, non_blocking=True)).loss(logits_BK)
    return mixing.share * own + (1 - mixing.share) * theirs


def distributed_norms(model: nn.Module, ranks: int, device: torch.device) -> None:
    """Have the norms of ``model`` see the videos of all ranks together (``train.sync_norm``).

    Raises UsageError for several processes on the CPU, where torch has no such norm.
    """
    if ranks == 1:
        return
    if device.type != "cuda":
        raise UsageError("train.sync_norm works on GPUs: on the CPU use one process, or leave it out")
    nn.SyncBatchNorm.convert_sync_batchnorm(model)
