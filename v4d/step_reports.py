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

from pipelines import BadVideos, Batch, TrainLoader
from preprocess.errors import DataError, V4dError
from v4d.config import Recipe
from v4d.launch import Place
from v4d.meter import Measured, Meter
from v4d.models.network import V4D
from v4d.schedule import learning_rate
from v4d.step import Learned, Learner
from v4d.stopping import AgreedStop
from v4d.training_log import TrainingLog

_SECONDS_TO_SPEAK = 30
# Of a batch, in a message; the log has them all.
_KEYS_TO_NAME = 16
_LOG = logging.getLogger(__name__)


class TrainingError(V4dError):
    """Training cannot go on. The message is one line and says at which step and why."""


@dataclass
class _Steps:
    """Steps whose figures still lie on the device.

    Each of ``videos`` is this rank's (labelled videos, videos) of a step, and of ``keys`` its videos.
    """

    first: int
    losses: list[Tensor] = field(default_factory=list)
    correct: list[Tensor] = field(default_factory=list)
    videos: list[tuple[int, int]] = field(default_factory=list)
    keys: list[tuple[str, ...]] = field(default_factory=list)


@dataclass(frozen=True)
class _Gathered:
    """Figures of some steps on their way from the device: ``arrived`` says that they are here.

    ``figures_4S`` are those of all ranks: loss, videos told right, labelled videos, videos. ``own_S`` are this rank's
    losses.
    """

    steps: _Steps
    figures_4S: Tensor
    own_S: Tensor
    gradient_norm: Tensor
    measured: Measured
    arrived: torch.cuda.Event | None


class StepReports:
    """Brings the figures of steps from the device, several at a time, and logs each step.

    On a GPU they are logged when the next are asked for: whoever waited for the last step would leave it idle until the
    next one is there. Logged are means over the videos that were loaded.
    """

    def __init__(
        self,
        log: TrainingLog,
        meter: Meter,
        learner: Learner,
        recipe: Recipe,
        place: Place,
        loader: TrainLoader,
        stop: AgreedStop,
        *,
        first_step: int,
        left_out: int,
    ) -> None:
        """``left_out`` is how many videos of the epoch of ``first_step`` could not be loaded on any rank before it."""
        self._log, self._meter, self._learner, self._recipe = log, meter, learner, recipe
        self._place, self._loader, self._stop = place, loader, stop
        self._left_out = left_out
        self._is_behind = place.device.type == "cuda"
        self._pending = _Steps(first_step)
        self._under_way: _Gathered | None = None

    def __len__(self) -> int:
        """Steps since the last report."""
        return len(self._pending.losses)

    def add(self, learned: Learned, batch: Batch) -> None:
        """Note the step that was made with ``batch``."""
        self._pending.losses.append(learned.loss)
        self._pending.correct.append(learned.correct)
        self._pending.videos.append((int((batch.labels_B >= 0).sum()), int(batch.mask_B.sum())))
        self._pending.keys.append(batch.keys)

    def report(self, *, wait: bool) -> None:
        """Send for the figures of the steps since the last report; with ``wait`` until they are logged.

        Raises DataError if too many videos of an epoch could not be loaded, TrainingError if a loss is not finite.
        """
        before, self._under_way = self._under_way, self._gathered()
        if before:
            self._say(before)
        if wait or not self._is_behind:
            self._say(self._under_way)
            self._under_way = None

    def _gathered(self) -> _Gathered:
        steps, device = self._pending, self._place.device
        self._pending = _Steps(steps.first + len(steps.losses))
        # A tensor made on the device would wait for all that is queued there.
        counts = torch.tensor(steps.videos, dtype=torch.double).to(device, non_blocking=True).T
        own_S = torch.stack(steps.losses).double()
        figures_4S = torch.stack([own_S, torch.stack(steps.correct).double(), *counts])
        if self._place.ranks > 1:
            dist.all_reduce(figures_4S)
        measured = self._meter.read(sum(self._loader.videos_in(steps.first + i) for i in range(len(steps.losses))))
        sent = [x.to("cpu", non_blocking=True) for x in (figures_4S, own_S, self._learner.gradient_norm())]
        arrived = None
        if device.type == "cuda":
            arrived = torch.cuda.Event()
            arrived.record()
        return _Gathered(steps, sent[0], sent[1], sent[2], measured, arrived)

    def _say(self, gathered: _Gathered) -> None:
        if gathered.arrived:
            gathered.arrived.synchronize()
        steps, loader, measured = gathered.steps, self._loader, gathered.measured.figures()
        records: list[dict[str, Any]] = []
        try:
            for i, (loss, correct, labelled, loaded) in enumerate(gathered.figures_4S.T.tolist()):
                step = steps.first + i
                videos, epoch = loader.videos_in(step), step // loader.steps_per_epoch + 1
                lr = learning_rate(self._recipe, step, loader.steps_per_epoch)
                if step % loader.steps_per_epoch == 0:
                    self._left_out = 0
                self._left_out += videos - int(loaded)
                check_left_out(loader.bad, self._left_out, self._place, self._stop)
                if not math.isfinite(loss):
                    with disk_may_be_full(self._log.run):
                        self._log.steps(records)
                    records = []
                    keys = () if gathered.own_S[i].isfinite() else steps.keys[i]
                    raise _not_finite(f"the loss is {loss}", step, epoch, lr, keys, self._place, self._log)
                records.append(
                    {
                        "step": step,
                        "epoch": epoch,
                        "loss": loss * (videos / max(labelled, 1)),
                        "top1": correct / max(labelled, 1),
                        "lr": lr,
                        "left_out": self._left_out,
                        **measured,
                    }
                )
            # Of the last step alone: that is what lies in the parameters' gradients. JSON knows no infinity.
            norm = float(gathered.gradient_norm)
            records[-1]["grad_norm"] = norm if math.isfinite(norm) else None
        finally:
            with disk_may_be_full(self._log.run):
                self._log.steps(records)


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
