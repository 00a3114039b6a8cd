"""Trains and evaluates what a plan says, going on where it was."""

from __future__ import annotations

import time
from collections.abc import Sequence

import torch
from rich.console import Console

from pipelines import MAX_BAD
from preprocess.errors import Interrupted
from v4d.evaluation.commands import evaluate_and_say
from v4d.evaluation.evaluate import Request
from v4d.launch import launch
from v4d.reproduce.plan import Job, Training
from v4d.train import train


def carry_out(
    jobs: Sequence[Job], console: Console, *, gpus: int, processes: int, batch: int, max_bad: float = MAX_BAD
) -> None:
    """Train and evaluate all jobs. A training that is finished is not done again, and one that was stopped goes on.

    Raises Interrupted where it was asked to stop, and what ``train`` and ``evaluate`` raise.
    """
    for number, job in enumerate(jobs, 1):
        console.print(f"{number} of {len(jobs)}: {job.row.network}, seed {job.seed}")
        for training in job.trainings:
            if not training.is_finished():
                _train(training, console, gpus, processes, max_bad)
        request = Request(
            job.own.run, job.scores, job.row.test(), root=job.own.dataset.root, batch=batch, max_bad=max_bad
        )
        evaluate_and_say(request, gpus, processes)


def _train(training: Training, console: Console, gpus: int, processes: int, max_bad: float) -> None:
    console.print(f"training {training.recipe.name} on {training.dataset.root}, run {training.run}")
    began = time.monotonic()
    # What was compiled for another row's network counts against this one.
    torch.compiler.reset()
    arguments = training.recipe, training.dataset.root, training.run, gpus, max_bad, ()
    if not launch(train, arguments, gpus, processes, max_restarts=3):
        raise Interrupted
    console.print(f"trained {training.run} in {time.monotonic() - began:.0f} s")
