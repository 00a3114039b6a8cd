"""When the figures of steps are logged."""

import json

import pytest
import torch
from rich.console import Console

from pipelines import TrainLoader
from v4d.launch import Place
from v4d.meter import training_meter
from v4d.step import Learned, Learner, build
from v4d.step_reports import StepReports, TrainingError
from v4d.stopping import agreed_stop
from v4d.training_log import TrainingLog

CPU = torch.device("cpu")


@pytest.fixture
def reporting(dataset, recipe, tmp_path):
    """Makes steps and reports them, as a GPU does or as the CPU does; and what the log holds."""
    place, taking = Place(CPU), recipe.data.train_sampling()
    model, optimizer = build(recipe, len(dataset.classes), CPU)
    learner = Learner(recipe, model, optimizer)
    loader = TrainLoader(dataset, "train", taking, global_batch=4, seed=0, device=CPU)
    batches = iter(loader)
    with TrainingLog(tmp_path, Console(quiet=True), first_step=0, steps=12, silent=False) as log:
        with agreed_stop(place) as stop:
            meter = training_meter(recipe, 6, place)
            reports = StepReports(log, meter, learner, recipe, place, loader, stop, first_step=0, left_out=0)

            def steps(count, loss=None):
                for number in range(count):
                    batch = next(batches)
                    learned = learner.step(batch, number, 4)
                    reports.add(learned if loss is None else Learned(torch.tensor(loss), learned.correct), batch)

            def logged():
                return [json.loads(line)["step"] for line in (tmp_path / "log.jsonl").open()]

            yield reports, steps, logged
    batches.close()


def test_on_a_gpu_nobody_waits_for_the_last_step_until_it_is_asked_for(reporting):
    reports, steps, logged = reporting
    reports._is_behind = True
    steps(3)
    assert len(reports) == 3
    reports.report(wait=False)
    assert (len(reports), logged()) == (0, [])
    steps(2)
    reports.report(wait=False)
    assert logged() == [0, 1, 2]
    steps(4)
    reports.report(wait=True)
    assert logged() == list(range(9))


def test_on_a_cpu_they_are_logged_at_once(reporting):
    reports, steps, logged = reporting
    steps(2)
    reports.report(wait=False)
    assert logged() == [0, 1]


def test_a_loss_that_is_none_ends_it_with_its_step_and_videos(reporting):
    reports, steps, logged = reporting
    reports._is_behind = True
    steps(2)
    steps(1, loss=float("nan"))
    reports.report(wait=False)
    steps(1)
    with pytest.raises(TrainingError, match=r"the loss is nan at step 2 .*look at the videos \w"):
        reports.report(wait=False)
    assert logged() == [0, 1, 2]
