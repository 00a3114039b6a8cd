"""Validation inside of training: top-1 on the centre crop, on as many processes."""

from __future__ import annotations

import torch
import torch.distributed as dist

from pipelines import EvalLoader
from preprocess.index import Dataset
from v4d.config import Recipe
from v4d.evaluation.protocols import Protocol
from v4d.evaluation.scoring import scored_batches
from v4d.launch import Place
from v4d.losses import targets_of
from v4d.models.network import V4D
from v4d.step_reports import check_left_out, disk_may_be_full
from v4d.stopping import AgreedStop
from v4d.training_log import TrainingLog


def is_due(recipe: Recipe, done: int, per_epoch: int, loader: EvalLoader | None) -> bool:
    """Whether a validation is due after ``done`` steps."""
    epochs, more = divmod(done, per_epoch)
    every = recipe.train.validate_every
    due = epochs == recipe.optim.epochs or (every > 0 and epochs % every == 0)
    return loader is not None and epochs > 0 and more == 0 and due


def validation_loader(recipe: Recipe, dataset: Dataset, place: Place, share: int, max_bad: float) -> EvalLoader | None:
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


def validate(
    log: TrainingLog,
    done: int,
    per_epoch: int,
    model: V4D,
    recipe: Recipe,
    loader: EvalLoader,
    place: Place,
    stop: AgreedStop,
) -> bool:
    """Log top-1 over the videos of ``loader``, 0 to 1, and how many could not be loaded.

    Returns whether it came to its end: not if asked to stop. Raises DataError if too many could not be loaded.
    """
    if place.ranks > 1:
        # Each rank has statistics of its own; rank 0's are those that a checkpoint holds.
        for buffer in model.buffers():
            dist.broadcast(buffer, 0)
    protocol = Protocol(units_infer=recipe.data.units, crops=1)
    counts = torch.zeros(3, device=place.device)
    for batch, scores_BK in scored_batches(model, loader, recipe, protocol):
        hits_B = targets_of(batch, recipe.train, model.num_classes, place.device).hits(scores_BK)
        counts[:2] += torch.stack([hits_B.sum(), (batch.labels_B >= 0).sum().to(place.device)])
        if stop.now():
            return False
    model.train()
    counts[2] = loader.bad.in_epoch
    if place.ranks > 1:
        dist.all_reduce(counts)
    correct, videos, left_out = counts.tolist()
    check_left_out(loader.bad, int(left_out), place, stop)
    said = {"val_top1": correct / max(videos, 1), "val_left_out": int(left_out)}
    with disk_may_be_full(log.run):
        log.validation({"step": done - 1, "epoch": done // per_epoch, **said})
    return True
