"""The learning rate: a pure function of the step, so that there is nothing to save and nothing to restore."""

from __future__ import annotations

import math

from v4d.config import Recipe


def learning_rate(recipe: Recipe, step: int, steps_per_epoch: int) -> float:
    """The learning rate of a step, counted from 0 over the whole run.

    With ``optim.lr_per`` it grows evenly with the global batch (Goyal et al., "Accurate, large minibatch SGD", 2017).
    """
    config = recipe.optim
    highest = config.lr * recipe.train.global_batch / config.lr_per if config.lr_per else config.lr
    warmup = config.warmup_epochs * steps_per_epoch
    if step < warmup:
        return highest * (step + 1) / warmup
    if config.schedule == "step":
        passed = sum(step >= milestone * steps_per_epoch for milestone in config.milestones)
        return highest * config.gamma**passed
    share = (step - warmup) / max(1.0, config.epochs * steps_per_epoch - warmup)
    return highest * 0.5 * (1 + math.cos(math.pi * share))
