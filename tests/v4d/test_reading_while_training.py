"""Runs that are read while they are in training: what is looked at may be removed at any moment."""

import multiprocessing
from dataclasses import replace

import pytest
import torch

from preprocess.errors import DataError
from v4d import runs
from v4d.checkpoint import STATE, Checkpoint, checkpoints_in, find_and_load, load_checkpoint, save_checkpoint
from v4d.checkpoint_writer import CheckpointWriter
from v4d.models.network import V4D
from v4d.trained import load_trained
from v4d.weights.initial import initialise


def begun(recipe):
    """The checkpoint of a new run."""
    model = dict(V4D(recipe.model, 2).state_dict())
    return Checkpoint(0, recipe, ("a", "b"), "nowhere", "f", model, {"state": {}}, {"step": 0})


def at(checkpoint, step):
    """With a classifier that tells the step."""
    bias = torch.full_like(checkpoint.model["classifier.bias"], float(step))
    return replace(checkpoint, step=step, model={**checkpoint.model, "classifier.bias": bias}, loader={"step": step})


def write_on(run, recipe, first, over):
    """One checkpoint after the other, each removed as soon as the next is there, until ``over``."""
    checkpoint, step = begun(recipe), first
    with CheckpointWriter(run, 0) as writer:
        while not over.is_set():
            writer.write(at(checkpoint, step))
            assert writer.wait() is None
            step += 1


@pytest.fixture
def in_training(recipe, tmp_path, monkeypatch):
    """A run under runs/ with a process that writes its checkpoints."""
    monkeypatch.chdir(tmp_path)
    run = runs.RUNS / "busy"
    save_checkpoint(run, at(begun(recipe), 1))
    context = multiprocessing.get_context("spawn")
    over = context.Event()
    process = context.Process(target=write_on, args=(run.absolute(), recipe, 2, over))
    process.start()
    while len(checkpoints_in(run)) == 1 and 1 in checkpoints_in(run):
        assert process.is_alive()
    yield run
    assert process.is_alive()
    over.set()
    process.join()
    assert process.exitcode == 0


def test_what_is_read_is_a_whole_checkpoint(in_training, recipe):
    steps = set()
    while len(steps) < 50:
        trained = load_trained(in_training)
        step = trained.about["step"]
        assert (trained.model.classifier.bias == step).all()
        assert trained.path.name == f"step-{step:08d}"
        steps.add(step)
        model = V4D(recipe.model, 2)
        said = initialise(model, str(in_training), ("a", "b"))
        assert f"step-{int(model.classifier.bias[0]):08d}" in said


def test_its_checkpoints_are_listed(in_training):
    last = 0
    while last < 150:
        assert runs.choose_run() == in_training
        for checkpoint in runs.checkpoint_sizes(in_training):
            assert checkpoint.bytes > 0
            last = max(last, checkpoint.step)


def test_what_is_damaged_and_still_there_is_damaged(recipe, tmp_path):
    save_checkpoint(tmp_path, at(begun(recipe), 3))
    found, checkpoint = find_and_load(tmp_path)
    assert (found.name, checkpoint.step) == ("step-00000003", 3)
    (found / STATE).write_bytes((found / STATE).read_bytes()[:-9])
    with pytest.raises(DataError, match=r"state.pt is damaged or no checkpoint"):
        load_checkpoint(tmp_path)


def test_a_link_to_a_checkpoint_that_is_gone_is_no_checkpoint(recipe, tmp_path):
    save_checkpoint(tmp_path, at(begun(recipe), 3))
    (tmp_path / "checkpoints" / "step-00000004").symlink_to(tmp_path / "gone")
    with pytest.raises(DataError, match=r"step-00000004/state.pt is damaged or no checkpoint: .*No such file"):
        load_checkpoint(tmp_path)
