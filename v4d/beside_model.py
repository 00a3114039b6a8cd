"""What the loader costs a training run: the same step on one fixed batch and on what the loader gives, by turns."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import repeat
from statistics import median

import torch

from pipelines import Batch, TrainLoader
from preprocess.index import Dataset
from v4d.compiling import compiled
from v4d.config import Recipe
from v4d.step import Learner, build

# The loader has made batches ahead while the other turn ran; they are not to count.
_WARM_UP = 6
_SMALLEST_TURN = 2


@dataclass(frozen=True)
class SlowDown:
    """Videos/s of a recipe's training step on a fixed batch and with the loader: medians over turns.

    ``ratio`` is the median over rounds of synthetic to loaded videos/s: how many times slower the loader makes it.
    """

    recipe: str
    batch: int
    synthetic: float
    loaded: float
    ratio: float

    def line(self) -> str:
        """The same for people."""
        return (
            f"training {self.recipe}, batches of {self.batch}: {self.synthetic:.1f} videos/s on a fixed batch, "
            f"{self.loaded:.1f} with the loader: {self.ratio:.3f} times slower"
        )


def slow_down(
    recipe: Recipe,
    dataset: Dataset,
    split: str,
    device: torch.device,
    threads: int,
    seconds: float,
    repeats: int,
    on_turn: Callable[[str], None] = lambda name: None,
) -> SlowDown:
    """Train from scratch on a split, ``repeats`` times by turns, on one device; nothing is kept.

    Raises DataError or UsageError where the split cannot be loaded.
    """
    config = recipe.train
    sampling = recipe.data.train_sampling()
    loader = iter(
        TrainLoader(
            dataset, split, sampling, global_batch=config.global_batch, seed=config.seed, device=device, threads=threads
        )
    )
    model, optimizer = build(recipe, len(dataset.classes), device)
    learner = Learner(recipe, model, optimizer, compiled(model, config))
    one = next(loader)
    fixed = replace(one, crops=(torch.empty_like(one.x).copy_(one.x),))

    def turn(batches: Iterator[Batch]) -> float:
        """Videos/s."""

        def step() -> None:
            learner.step(next(batches), 0, config.global_batch)

        for _ in range(_WARM_UP):
            step()
        _finish(device)
        began, steps, passed = time.perf_counter(), 0, 0.0
        while passed < seconds or steps < _SMALLEST_TURN:
            step()
            steps += 1
            passed = time.perf_counter() - began
        _finish(device)
        return steps * config.global_batch / (time.perf_counter() - began)

    rates = []
    for _ in range(repeats):
        on_turn(f"{recipe.name} on a fixed batch")
        synthetic = turn(repeat(fixed))
        on_turn(f"{recipe.name} with the loader")
        rates.append((synthetic, turn(loader)))
    return SlowDown(
        recipe=recipe.name,
        batch=config.global_batch,
        synthetic=median(synthetic for synthetic, _ in rates),
        loaded=median(loaded for _, loaded in rates),
        ratio=median(synthetic / loaded for synthetic, loaded in rates),
    )


def _finish(device: torch.device) -> None:
    """Wait for what the device still has to do. (What it does ahead of the host, it does no faster than it can.)"""
    if device.type == "cuda":
        torch.cuda.current_stream(device).synchronize()
