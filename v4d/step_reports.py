"""What each step says, brought from the device every few steps: figures for the log, and what no run goes on with."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from pipelines import BadVideos, TrainLoader
from preprocess.errors import DataError, V4dError
from v4d.config import Recipe
from v4d.launch import Place
from v4d.meter import Meter
from v4d.models.network import V4D
from v4d.schedule import learning_rate
from v4d.step import Learner
from v4d.stopping import AgreedStop
from v4d.training_log import TrainingLog

_SECONDS_TO_SPEAK = 30
# Of a batch, in a message; the log has them all.
_KEYS_TO_NAME = 16
_LOG = logging.getLogger(__name__)


class TrainingError(V4dError):
    """Training cannot go on. The message is one line and says at which step and why."""


@dataclass(frozen=True)
class Steps:
    """Steps whose figures still lie on the device.

    Each of ``videos`` is this rank's (labelled videos, videos) of a step, and of ``keys`` its videos. ``left_out`` is
    how many of the epoch of ``first`` could not be loaded on any rank before it.
    """

    first: int
    left_out: int
    losses: list[Tensor] = field(default_factory=list)
    correct: list[Tensor] = field(default_factory=list)
    videos: list[tuple[int, int]] = field(default_factory=list)
    keys: list[tuple[str, ...]] = field(default_factory=list)


def report(
    log: TrainingLog,
    pending: Steps,
    meter: Meter,
    learner: Learner,
    recipe: Recipe,
    place: Place,
    loader: TrainLoader,
    stop: AgreedStop,
) -> int:
    """Bring the figures of the steps since the last report from the device, and log each step.

    Logged are means over the videos that were loaded. Returns how many of the epoch were not, 0 if it is over. Raises
    DataError if they are too many, TrainingError if a loss is not finite.
    """
    norm = learner.gradient_norm()
    counts = torch.tensor(pending.videos, dtype=torch.double, device=place.device).T
    own = torch.stack(pending.losses).double()
    figures = torch.stack([own, torch.stack(pending.correct).double(), *counts])
    own_is_finite = own.isfinite().tolist()
    if place.ranks > 1:
        dist.all_reduce(figures)
    of_steps, grad_norm = figures.T.tolist(), norm.item()
    videos = [loader.videos_in(pending.first + i) for i in range(len(pending.losses))]
    measured = meter.read(sum(videos))
    left_out = pending.left_out
    records: list[dict[str, Any]] = []
    try:
        for i, (loss, correct, labelled, loaded) in enumerate(of_steps):
            step = pending.first + i
            if step % loader.steps_per_epoch == 0:
                left_out = 0
            left_out += videos[i] - int(loaded)
            check_left_out(loader.bad, left_out, place, stop)
            epoch, lr = step // loader.steps_per_epoch + 1, learning_rate(recipe, step, loader.steps_per_epoch)
            if not math.isfinite(loss):
                with disk_may_be_full(log.run):
                    log.steps(records)
                records = []
                keys = () if own_is_finite[i] else pending.keys[i]
                raise _not_finite(f"the loss is {loss}", step, epoch, lr, keys, place, log)
            records.append(
                {
                    "step": step,
                    "epoch": epoch,
                    "loss": loss * (videos[i] / max(labelled, 1)),
                    "top1": correct / max(labelled, 1),
                    "lr": lr,
                    "left_out": left_out,
                    **measured,
                }
            )
        # Of the last step alone: that is what lies in the parameters' gradients. JSON knows no infinity.
        records[-1]["grad_norm"] = grad_norm if math.isfinite(grad_norm) else None
    finally:
        with disk_may_be_full(log.run):
            log.steps(records)
    return left_out


def check_left_out(bad: BadVideos, left_out: int, place: Place, stop: AgreedStop) -> None:
    """Raise DataError if too many videos were left out on all ranks. All of them come here; the first one says so."""
    if not bad.are_too_many(left_out):
        return
    last = [bad.last]
    if place.ranks > 1:
        last = [""] * place.ranks
        dist.all_gather_object(last, bad.last)
        if not place.is_main:
            # The launcher ends all when the first one ends, and the main process has still to say why: it does so by
            # a signal.
            stop.wait(_SECONDS_TO_SPEAK)
            raise SystemExit(DataError.exit_code)
    bad.check(left_out, next(filter(None, last), ""))


def check_weights(
    model: V4D, step: int, epoch: int, lr: float, keys: tuple[str, ...], place: Place, log: TrainingLog
) -> None:
    """Raise TrainingError if weights are not finite, before they take the place of those that were."""
    if not torch.stack([parameter.isfinite().all() for parameter in model.parameters()]).all():
        raise _not_finite("weights are not finite", step, epoch, lr, keys, place, log)


def _not_finite(
    what: str, step: int, epoch: int, lr: float, keys: tuple[str, ...], place: Place, log: TrainingLog
) -> TrainingError:
    """The error to raise, on all ranks, and to log. ``keys`` are those of this rank's videos that may be the cause."""
    shares: list[tuple[str, ...]] = [keys] * place.ranks
    if place.ranks > 1:
        dist.all_gather_object(shares, keys)
    named = [key for share in shares for key in share if key]
    with disk_may_be_full(log.run):
        log.error({"step": step, "epoch": epoch, "error": what, "lr": lr, "videos": named})
    more = f" and {len(named) - _KEYS_TO_NAME} more, in log.jsonl" if len(named) > _KEYS_TO_NAME else ""
    return TrainingError(
        f"{what} at step {step} (learning rate {lr:g}): lower optim.lr, or look at the videos "
        f"{', '.join(named[:_KEYS_TO_NAME])}{more}"
    )


@contextmanager
def disk_may_be_full(run: Path) -> Iterator[None]:
    """For the log, whose lines are not worth a run."""
    try:
        yield
    except OSError as error:
        _LOG.warning("%s: the log takes no more: %s. Training goes on", run, error.strerror or error)
