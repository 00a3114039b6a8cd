"""The trainer."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

import torch
from rich.console import Console
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from pipelines import MAX_BAD, TrainLoader
from preprocess.console import console, notes_of
from preprocess.durable_files import held, remove_left_overs
from preprocess.errors import DataError, UsageError
from preprocess.index import Dataset, read_dataset
from v4d.checkpoint import CHECKPOINTS, Checkpoint, last_checkpoint, load_checkpoint, load_weights
from v4d.checkpoint_writer import CheckpointWriter
from v4d.compiling import compiled
from v4d.config import Recipe
from v4d.launch import Place, as_on_main, this_place
from v4d.meter import training_meter
from v4d.models.network import V4D
from v4d.runs import LOCK, RunRecord, recorded
from v4d.sample_sheet import sample_sheet
from v4d.schedule import learning_rate
from v4d.step import Learner, build, distributed_norms
from v4d.step_reports import StepReports, TrainingError, check_weights, disk_may_be_full
from v4d.stopping import agreed_stop
from v4d.trackers import start_trackers
from v4d.training_log import TrainingLog, left_out_before, validations
from v4d.validation import is_due, validate, validation_loader
from v4d.weights.initial import initialise

_STEPS_BETWEEN_REPORTS = 10
# A lock is let go a moment after the process that held it was killed.
_SECONDS_FOR_THE_LOCK = 2


def train(
    recipe: Recipe, root: Path, run: Path, gpus: int, max_bad: float = MAX_BAD, track: tuple[str, ...] = ()
) -> bool:
    """Train ``recipe`` on the dataset at ``root`` into the folder ``run``; a run that was stopped goes on.

    ``run`` gets run.json, checkpoints/, log.jsonl and tensorboard/, and the trackers that ``track`` names get its
    curves (see ``start_trackers``; like ``max_bad`` that is not part of the recipe). Batches depend on the recipe and
    the dataset alone, not on the number of GPUs, nor on how often the run was stopped. (The loss depends on the number
    of GPUs too, since each normalises over its share of the batch.)

    Returns whether the run is finished: it is not if SIGINT, SIGTERM or SIGUSR1 asked it to stop, which it does at a
    checkpoint of its next step. A disk that does not take a checkpoint, or a line of the log, costs a warning, unless
    it was the last.

    A video that cannot be loaded counts in no loss: the gradient is that of the other videos' losses, each weighed as
    if it were there, so that ranks need not agree on a weight. More than ``max_bad`` (0 to 1) of the videos of an
    epoch, or of a validation, on all ranks together, end the run with a DataError. ``max_bad`` is not part of the
    recipe: a run may go on with another one.

    Raises DataError or UsageError where dataset, recipe and an existing checkpoint do not go together, or another
    process trains in ``run``; TrainingError where the loss is not finite, the GPU's memory does not suffice, or the
    last checkpoint could not be written.
    """
    recipe.check_start()
    with this_place(gpus) as place:
        dataset = read_dataset(root)
        if run.exists() and not run.is_dir():
            raise UsageError(f"{run} is a file: name a folder for the run with --out")
        run.mkdir(parents=True, exist_ok=True)
        whose = f"{run} is being trained by another v4d train"
        with held(run / LOCK, whose, _SECONDS_FOR_THE_LOCK) if place.is_main else nullcontext():
            if place.is_main:
                # Others may write below it, as an evaluation of its last checkpoint does.
                for folder in (run, run / CHECKPOINTS):
                    remove_left_overs(folder, below=False)
            try:
                return _train(recipe, dataset, run, place, notes_of(place.is_main), max_bad, track)
            except torch.OutOfMemoryError:
                raise TrainingError(
                    "the GPU's memory does not suffice: set train.micro_batch, name stages in "
                    "train.checkpoint_stages, take more GPUs, or lower train.global_batch"
                ) from None


def _train(
    recipe: Recipe,
    dataset: Dataset,
    run: Path,
    place: Place,
    notes: Console,
    max_bad: float,
    track: tuple[str, ...],
) -> bool:
    config, device = recipe.train, place.device
    if len(dataset.classes) < 2:
        raise DataError(f"{dataset.root} has one class only, '{dataset.classes[0]}': there is nothing to learn")
    share = config.share_of(place.ranks)
    model, optimizer = build(recipe, len(dataset.classes), device)
    resumed = _resume(run, recipe, dataset, place, model, optimizer)
    # The other ranks get the weights from the main one.
    if config.init and not resumed and place.is_main:
        notes.print(initialise(model, config.init, dataset.classes, config.starts_from))
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
    compute = compiled(parallel, config, place.ranks)
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
    # One for the whole run: it says once what it cannot load.
    validation = validation_loader(recipe, dataset, place, share, max_bad)
    # Of a validation that was cut short the log says nothing.
    logged = [record["step"] + 1 for record in validations(run)]
    owed = is_due(recipe, first_step, per_epoch, validation) and first_step not in logged
    left_out = left_out_before(run, first_step, first_step // per_epoch + 1)
    owed, left_out = as_on_main((owed, left_out), place)
    record, silent = RunRecord.of(recipe, dataset, steps, place, max_bad, track), not place.is_main
    if first_step >= steps and not owed:
        if place.is_main:
            console.print(f"{run} is finished, at step {steps}")
        # It may have been killed before it could note so.
        with recorded(run, record, silent) as ending:
            ending.finished = True
        return True
    if first_step:
        notes.print(f"going on at step {first_step} of {steps}")
    if not validation:
        notes.print("there is no validation split: accuracy is that of training alone")
    most = loader.memory_bound + (validation.memory_bound if validation else 0)
    notes.print(f"batches on their way: at most {most / 1e6:,.0f} MB on {device.type}, in each process")

    trackers = start_trackers(track, run, recipe, dataset.root, notes.print) if place.is_main else []
    meter = training_meter(recipe, len(dataset.classes), place)

    kept_every = config.keep_every * per_epoch
    with (
        recorded(run, record, silent) as ending,
        TrainingLog(run, notes, first_step=first_step, steps=steps, silent=silent, trackers=trackers) as log,
        agreed_stop(place) as stop,
        CheckpointWriter(run, kept_every) as writer,
    ):
        done, stopping = first_step, False
        if owed and validation:
            stopping = not validate(log, done, per_epoch, learner.network, recipe, validation, place, stop)
        validating = owed
        reports = StepReports(
            log, meter, learner, recipe, place, loader, stop, first_step=first_step, left_out=left_out
        )
        batches = iter(loader)
        meter.restart()
        for step in range(first_step, steps if not stopping else 0):
            # Dropout draws from a generator that is a function of the step, so that a resumed run draws the same.
            torch.manual_seed(config.seed * 1_000_003 + step * place.ranks + place.rank)
            with meter.waiting():
                batch = next(batches)
            if step == first_step and place.is_main:
                with disk_may_be_full(run):
                    log.first_batch(sample_sheet(batch, recipe.data.units, dataset.classes))

            lr = learning_rate(recipe, step, per_epoch)
            for group in optimizer.param_groups:
                group["lr"] = lr
            valid = loader.videos_in(step)
            with meter.computing():
                learned = learner.step(batch, step, valid)
            reports.add(learned, batch)

            done = step + 1
            at_epoch_end = done % per_epoch == 0
            validating = is_due(recipe, done, per_epoch, validation)
            kept = kept_every > 0 and done % kept_every == 0
            stopping = stop.now()
            saving = stopping or validating or kept or done == steps or done % config.checkpoint_every == 0
            # The log comes before the checkpoint: whenever the run is killed, what a checkpoint holds is in the log.
            if saving or at_epoch_end or len(reports) == _STEPS_BETWEEN_REPORTS:
                reports.report(wait=saving)
            if saving:
                check_weights(model, step, step // per_epoch + 1, lr, batch.keys, place, log)
            if saving and place.is_main:
                with disk_may_be_full(run):
                    log.sync()
                writer.write(_checkpoint(done, recipe, dataset, learner, optimizer, loader))
            # The checkpoint comes before the validation: a run that is stopped there has only that to do again.
            if validation and validating and not stopping:
                stopping = not validate(log, done, per_epoch, learner.network, recipe, validation, place, stop)
                meter.restart()
            if stopping:
                break
        if error := writer.wait():
            raise TrainingError(
                f"the checkpoint of step {done}, the last one, could not be written: {error.strerror or error}. Mend "
                f"that, then go on from the one before it: v4d train --resume {run}"
            )
        if place.is_main:
            writer.tidy()
        # Asked to stop with nothing left to do, it is finished.
        ending.finished = done == steps and not (stopping and validating)
        if not ending.finished:
            log.stopped()
    if not ending.finished and place.is_main:
        console.print(f"stopped after step {done} of {steps}: go on with v4d train --resume {run}")
    return ending.finished


def _resume(
    run: Path, recipe: Recipe, dataset: Dataset, place: Place, model: V4D, optimizer: torch.optim.Optimizer
) -> Checkpoint | None:
    """Load the last checkpoint of ``run`` into model and optimizer, and return it, if there is one."""
    path = as_on_main(last_checkpoint(run) if place.is_main else None, place)
    if path is None:
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
    fused = optimizer.defaults["fused"]
    optimizer.load_state_dict(checkpoint.optimizer)
    # It is for the device of now, not for that of then.
    for group in optimizer.param_groups:
        group["fused"] = fused
    return checkpoint


def _checkpoint(
    step: int,
    recipe: Recipe,
    dataset: Dataset,
    learner: Learner,
    optimizer: torch.optim.Optimizer,
    loader: TrainLoader,
) -> Checkpoint:
    return Checkpoint(
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
