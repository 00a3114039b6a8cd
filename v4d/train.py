"""The trainer."""

from __future__ import annotations

import math
import time
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
from rich.console import Console
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from pipelines import MAX_BAD, BadVideos, EvalLoader, TrainLoader
from preprocess.durable_files import held, remove_left_overs
from preprocess.errors import DataError, Interrupted, UsageError, V4dError, stop_signals
from preprocess.index import Dataset, read_dataset
from v4d.checkpoint import LAST, Checkpoint, load_checkpoint, load_weights, save_checkpoint
from v4d.config import Recipe
from v4d.evaluate import scored_batches
from v4d.launch import Place, this_place
from v4d.losses import targets_of
from v4d.meter import Meter, training_meter
from v4d.models.network import V4D
from v4d.sample_sheet import sample_sheet
from v4d.schedule import learning_rate
from v4d.step import Learner, build, distributed_norms
from v4d.trackers import start_trackers
from v4d.training_log import TrainingLog, left_out_before
from v4d.weights.initial import initialise

_STEPS_BETWEEN_SYNCS = 10
_SECONDS_TO_SPEAK = 30


class TrainingError(V4dError):
    """Training cannot go on. The message is one line and says at which step and why."""


@dataclass(frozen=True)
class _Steps:
    """Steps whose figures still lie on the device.

    Each of ``videos`` is this rank's (labelled videos, videos) of a step. ``left_out`` is how many of the epoch of
    ``first`` could not be loaded on any rank before it.
    """

    first: int
    left_out: int
    losses: list[Tensor]
    correct: list[Tensor]
    videos: list[tuple[int, int]]


def train(
    recipe: Recipe, root: Path, run: Path, gpus: int, max_bad: float = MAX_BAD, track: tuple[str, ...] = ()
) -> None:
    """Train ``recipe`` on the dataset at ``root`` into the folder ``run``; a run that was stopped goes on.

    ``run`` gets last.pt, log.jsonl and tensorboard/, and so do the trackers that ``track`` names its curves (see
    ``start_trackers``; like ``max_bad`` that is not part of the recipe). Batches depend on the recipe and the dataset
    alone, not on the number of GPUs, nor on how often the run was stopped. (The loss depends on the number of GPUs
    too, since each normalises over its share of the batch.)

    A video that cannot be loaded counts in no loss: the gradient is that of the other videos' losses, each weighed as
    if it were there, so that ranks need not agree on a weight. More than ``max_bad`` (0 to 1) of the videos of an
    epoch, or of a validation, on all ranks together, end the run with a DataError. ``max_bad`` is not part of the
    recipe: a run may go on with another one.

    Raises DataError or UsageError where dataset, recipe and an existing checkpoint do not go together, or another
    process trains in ``run``; TrainingError where the loss is not finite or the GPU's memory does not suffice.
    """
    recipe.check_start()
    with this_place(gpus) as place:
        console = Console(quiet=not place.is_main, markup=False, highlight=False)
        dataset = read_dataset(root)
        run.mkdir(parents=True, exist_ok=True)
        with held(run / "lock", f"{run} is being trained by another v4d train") if place.is_main else nullcontext():
            if place.is_main:
                remove_left_overs(run)
            try:
                _train(recipe, dataset, run, place, console, max_bad, track)
            except torch.OutOfMemoryError:
                raise TrainingError("the GPU's memory does not suffice: lower train.global_batch") from None


def _train(
    recipe: Recipe,
    dataset: Dataset,
    run: Path,
    place: Place,
    console: Console,
    max_bad: float,
    track: tuple[str, ...],
) -> None:
    config, device = recipe.train, place.device
    if len(dataset.classes) < 2:
        raise DataError(f"{dataset.root} has one class only, '{dataset.classes[0]}': there is nothing to learn")
    share = config.share_of(place.ranks)
    model, optimizer = build(recipe, len(dataset.classes), device)
    resumed = _resume(run, recipe, dataset, model, optimizer)
    # The other ranks get the weights from the main one.
    if config.init and not resumed and place.is_main:
        console.print(initialise(model, config.init, dataset.classes))
    first_step = resumed.step if resumed else 0
    if config.sync_norm:
        distributed_norms(model, place.ranks, device)
    parallel: nn.Module = model
    if place.ranks > 1:
        device_ids = [device] if device.type == "cuda" else None
        # A graph that is taken for static must sum its first gradients at once, not those of several parts.
        static = not 0 < config.micro_batch < share
        parallel = DistributedDataParallel(
            model, device_ids=device_ids, static_graph=static, gradient_as_bucket_view=True
        )
    compute = torch.compile(parallel) if config.compile else parallel
    learner = Learner(recipe, model, optimizer, compute, place.ranks)
    if resumed:
        learner.load_state_dict(resumed.extras)

    loader = TrainLoader(
        dataset,
        "train",
        recipe.data.train_sampling(),
        global_batch=config.global_batch,
        seed=config.seed,
        device=device,
        rank=place.rank,
        ranks=place.ranks,
        threads=place.decode_threads,
        max_bad=max_bad,
    )
    if resumed:
        loader.load_state_dict(resumed.loader)
    per_epoch = loader.steps_per_epoch
    steps = recipe.optim.epochs * per_epoch
    if first_step >= steps:
        console.print(f"{run} is finished, at step {steps}")
        return
    if first_step:
        console.print(f"going on at step {first_step} of {steps}")
    # One for the whole run: it says once what it cannot load.
    validation = _validation_loader(recipe, dataset, place, share, max_bad)
    if not validation:
        console.print("there is no validation split: accuracy is that of training alone")
    most = loader.memory_bound + (validation.memory_bound if validation else 0)
    console.print(f"batches on their way: at most {most / 1e6:,.0f} MB on {device.type}, in each process")
    left_out = left_out_before(run, first_step, first_step // per_epoch + 1)

    trackers = start_trackers(track, run, recipe, dataset.root, console.print) if place.is_main else []
    meter = training_meter(recipe, len(dataset.classes), place)

    with (
        TrainingLog(
            run, console, first_step=first_step, steps=steps, silent=not place.is_main, trackers=trackers
        ) as log,
        # Several ranks would have to agree on the step: there a signal ends the run at its last checkpoint.
        stop_signals(listen=place.ranks == 1) as stop_asked,
    ):
        pending = _Steps(first_step, left_out, [], [], [])
        batches = iter(loader)
        meter.restart()
        for step in range(first_step, steps):
            # Dropout draws from a generator that is a function of the step, so that a resumed run draws the same.
            torch.manual_seed(config.seed * 1_000_003 + step * place.ranks + place.rank)
            with meter.waiting():
                batch = next(batches)
            if step == first_step and place.is_main:
                log.first_batch(sample_sheet(batch, recipe.data.units, dataset.classes))

            lr = learning_rate(recipe, step, per_epoch)
            for group in optimizer.param_groups:
                group["lr"] = lr
            valid = loader.videos_in(step)
            with meter.computing():
                learned = learner.step(batch, step, valid)
            pending.losses.append(learned.loss)
            pending.correct.append(learned.correct)
            pending.videos.append((int((batch.labels_B >= 0).sum()), int(batch.mask_B.sum())))

            done = step + 1
            at_epoch_end = done % per_epoch == 0
            stopping = stop_asked.is_set()
            saving = done == steps or stopping or done % config.checkpoint_every == 0
            # The log comes before the checkpoint: whenever the run is killed, what a checkpoint holds is in the log.
            if saving or at_epoch_end or len(pending.losses) == _STEPS_BETWEEN_SYNCS:
                left_out = _report(log, pending, meter, learner, recipe, place, loader)
                pending = _Steps(done, left_out, [], [], [])
            if validation and at_epoch_end and _validates(recipe, done // per_epoch):
                top1, val_left_out = _validate(learner.network, recipe, validation, place)
                said = {"val_top1": top1, "val_left_out": val_left_out}
                log.validation({"step": step, "epoch": done // per_epoch, **said})
                meter.restart()
            if saving and place.is_main:
                log.sync()
                _save(run, done, recipe, dataset, learner, optimizer, loader)
            if stopping:
                raise Interrupted(f"stopped after step {done} of {steps}: the same command goes on from there")


def _report(
    log: TrainingLog, pending: _Steps, meter: Meter, learner: Learner, recipe: Recipe, place: Place, loader: TrainLoader
) -> int:
    """Bring the figures of the steps since the last report from the device, and log each step.

    Logged are means over the videos that were loaded. Returns how many of the epoch were not, 0 if it is over. Raises
    DataError if they are too many.
    """
    norm = learner.gradient_norm()
    counts = torch.tensor(pending.videos, dtype=torch.double, device=place.device).T
    figures = torch.stack([torch.stack(pending.losses).double(), torch.stack(pending.correct).double(), *counts])
    if place.ranks > 1:
        dist.all_reduce(figures)
    of_steps, grad_norm = figures.T.tolist(), norm.item()
    videos = [loader.videos_in(pending.first + i) for i in range(len(pending.losses))]
    measured = meter.read(sum(videos))
    left_out, records = pending.left_out, []
    try:
        for i, (loss, correct, labelled, loaded) in enumerate(of_steps):
            step = pending.first + i
            if step % loader.steps_per_epoch == 0:
                left_out = 0
            left_out += videos[i] - int(loaded)
            _check(loader.bad, left_out, place)
            lr = learning_rate(recipe, step, loader.steps_per_epoch)
            if not math.isfinite(loss):
                raise TrainingError(f"the loss is {loss} at step {step} (learning rate {lr:g}): lower optim.lr")
            records.append(
                {
                    "step": step,
                    "epoch": step // loader.steps_per_epoch + 1,
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
        log.steps(records)
    return left_out


def _check(bad: BadVideos, left_out: int, place: Place) -> None:
    """Raise DataError if too many videos were left out on all ranks. All of them come here; the first one says so."""
    if not bad.are_too_many(left_out):
        return
    last = [bad.last]
    if place.ranks > 1:
        last = [""] * place.ranks
        dist.all_gather_object(last, bad.last)
        if not place.is_main:
            # The launcher ends all when the first one ends, and the main process has still to say why.
            time.sleep(_SECONDS_TO_SPEAK)
            raise SystemExit(DataError.exit_code)
    bad.check(left_out, next(filter(None, last), ""))


def _resume(
    run: Path, recipe: Recipe, dataset: Dataset, model: V4D, optimizer: torch.optim.Optimizer
) -> Checkpoint | None:
    """Load RUN/last.pt into model and optimizer, and return it, if there is one."""
    path = run / LAST
    if not path.exists():
        return None
    checkpoint = load_checkpoint(path)
    if checkpoint.recipe != recipe:
        then, now = checkpoint.recipe.model_dump(), recipe.model_dump()
        differing = ", ".join(name for name in then if then[name] != now[name])
        raise UsageError(f"{run} was begun with another recipe (differing: {differing}): choose another --out")
    if checkpoint.fingerprint != dataset.fingerprint:
        raise DataError(
            f"{run} was begun on another dataset, or {dataset.root} has changed since: choose another --out"
        )
    load_weights(model, checkpoint, path)
    optimizer.load_state_dict(checkpoint.optimizer)
    return checkpoint


def _save(
    run: Path,
    step: int,
    recipe: Recipe,
    dataset: Dataset,
    learner: Learner,
    optimizer: torch.optim.Optimizer,
    loader: TrainLoader,
) -> None:
    checkpoint = Checkpoint(
        step=step,
        recipe=recipe,
        classes=dataset.classes,
        dataset=str(dataset.root.resolve()),
        fingerprint=dataset.fingerprint,
        model=learner.network.state_dict(),
        optimizer=optimizer.state_dict(),
        loader=loader.state_dict(),
        extras=learner.state_dict(),
    )
    try:
        save_checkpoint(run / LAST, checkpoint)
    except OSError as error:
        raise TrainingError(
            f"{run / LAST}: {error.strerror or error} at step {step}; the checkpoint before it is whole: "
            "mend that, then run the same command again"
        ) from None


def _validates(recipe: Recipe, epochs_done: int) -> bool:
    every = recipe.train.validate_every
    return epochs_done == recipe.optim.epochs or (every > 0 and epochs_done % every == 0)


def _validation_loader(recipe: Recipe, dataset: Dataset, place: Place, share: int, max_bad: float) -> EvalLoader | None:
    """The centre crops of the validation split, with as many units as in training; None if there is no such split."""
    if not dataset.splits.get("val", {}).get("videos", 0):
        return None
    return EvalLoader(
        dataset,
        "val",
        recipe.data.test_sampling(recipe.data.units),
        global_batch=place.ranks * max(1, share // 2),
        device=place.device,
        crops=1,
        rank=place.rank,
        ranks=place.ranks,
        threads=place.decode_threads,
        max_bad=max_bad,
    )


def _validate(model: V4D, recipe: Recipe, loader: EvalLoader, place: Place) -> tuple[float, int]:
    """Top-1 over the videos of ``loader``, 0 to 1, and how many could not be loaded. See _check for too many."""
    if place.ranks > 1:
        # Each rank has statistics of its own; rank 0's are those that a checkpoint holds.
        for buffer in model.buffers():
            dist.broadcast(buffer, 0)
    counts = torch.zeros(3, device=place.device)
    for batch, scores_BK in scored_batches(model, loader, recipe, recipe.data.units):
        hits_B = targets_of(batch, recipe.train, model.num_classes, place.device).hits(scores_BK)
        counts[:2] += torch.stack([hits_B.sum(), (batch.labels_B >= 0).sum().to(place.device)])
    model.train()
    counts[2] = loader.bad.in_epoch
    if place.ranks > 1:
        dist.all_reduce(counts)
    correct, videos, left_out = counts.tolist()
    _check(loader.bad, int(left_out), place)
    return correct / max(videos, 1), int(left_out)
