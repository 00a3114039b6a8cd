"""What a recipe's options do to a run: on several processes, when it is killed, and in what it keeps."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch

from preprocess.errors import DataError, UsageError
from tests.v4d.conftest import TINY
from v4d.checkpoint import checkpoints_in, find_checkpoint, load_checkpoint
from v4d.models.network import V4D
from v4d.recipes.files import load_recipe
from v4d.train import train
from v4d.trained import load_trained
from v4d.weights.initial import initialise

SETTINGS = (*TINY, "train.global_batch=8", "optim.lr=0.01", "train.validate_every=0", "train.checkpoint_every=2")


def command(dataset, run, *settings, procs=1):
    sets = [part for setting in (*SETTINGS, *settings) for part in ("--set", setting)]
    return [
        *(sys.executable, "-m", "cli", "train", "--gpus", "0", "--procs", str(procs), "--data", str(dataset.root)),
        *("--recipe", "demo", "--out", str(run), *sets),
    ]


def called(*arguments, **options):
    done = subprocess.run(*arguments, capture_output=True, text=True, **options)
    assert done.returncode == 0, done.stderr
    return done.stdout


def losses(run):
    records = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [record["loss"] for record in records if "loss" in record]


def recipe(*settings):
    return load_recipe("demo", (*SETTINGS, "optim.epochs=2", *settings))


def test_parts_on_two_processes_are_parts_on_one(dataset, tmp_path):
    """Two shares of two parts each, and four parts: the same gradients, if each rank's are summed but once."""
    settings = ("train.micro_batch=2", "optim.epochs=2", "optim.clip_norm=0.5", "train.ema=0.5")
    called(command(dataset, tmp_path / "two", *settings, procs=2))
    train(recipe(*settings), dataset.root, tmp_path / "one", gpus=0)
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), rel=1e-3)
    two, one = (load_checkpoint(tmp_path / run) for run in ("two", "one"))
    for name, _ in V4D(one.recipe.model, 6).named_parameters():
        torch.testing.assert_close(two.extras["trained"][name], one.extras["trained"][name], rtol=1e-2, atol=1e-4)
        torch.testing.assert_close(two.model[name], one.model[name], rtol=1e-2, atol=1e-4)


def test_recomputed_stages_on_two_processes(dataset, tmp_path):
    called(command(dataset, tmp_path / "two", "optim.epochs=2", 'train.checkpoint_stages=["res2","res4"]', procs=2))
    train(recipe("train.micro_batch=4"), dataset.root, tmp_path / "one", gpus=0)
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), rel=1e-3)


def test_a_killed_run_goes_on_with_its_average(dataset, tmp_path):
    settings = ("train.ema=0.9", "optim.epochs=5", "train.mixup=0.5")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    called(command(dataset, whole, *settings), env=environment)
    process = subprocess.Popen(command(dataset, killed, *settings), stdout=subprocess.DEVNULL, env=environment)
    until = time.monotonic() + 120
    while not checkpoints_in(killed):
        assert process.poll() is None and time.monotonic() < until
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert "going on at step" in called(command(dataset, killed, *settings), env=environment)
    ends = [load_checkpoint(run) for run in (whole, killed)]
    assert losses(killed) == losses(whole)
    for one, other in ((end.model, end.extras["trained"]) for end in ends):
        assert not torch.equal(one["classifier.weight"], other["classifier.weight"])
    for name in ends[0].model:
        assert torch.equal(ends[0].model[name], ends[1].model[name])
        assert torch.equal(ends[0].extras["trained"][name], ends[1].extras["trained"][name])
    # What is evaluated, exported and started from is the average.
    used = load_trained(whole).model.state_dict()
    assert torch.equal(used["classifier.weight"], ends[0].model["classifier.weight"])


@pytest.mark.parametrize("begins_with", ["demo", "another"])
def test_a_run_starts_from_another_ones_folder(dataset, tmp_path, capsys, begins_with):
    tsn = recipe("model.blocks_4d=[]")
    train(tsn, dataset.root, tmp_path / "first", gpus=0)
    weights = load_checkpoint(tmp_path / "first").model
    for source in (tmp_path / "first", tmp_path / "first" / "best", find_checkpoint(tmp_path / "first")):
        model = V4D(recipe().model, 6)
        said = initialise(model, str(source), dataset.classes)
        assert said.startswith(f"weights from {find_checkpoint(tmp_path / 'first')}; fresh: res3_1_4d, res4_1_4d")
        assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items() if name in weights)
    held = recipe(
        f"train.init={tmp_path / 'first'}",
        f"train.starts_from={begins_with}",
        "model.norm_init_4d=0",
        "optim.frozen=['*_4d.*']",
    )
    train(held, dataset.root, tmp_path / "second", gpus=0)
    second = load_checkpoint(tmp_path / "second").model
    assert not second["layers.res3_1_4d.norm.weight"].any() and not second["layers.res3_1_4d.norm.bias"].any()
    assert not torch.equal(second["classifier.weight"], weights["classifier.weight"])
    said = capsys.readouterr().out
    missing = f"is of recipe demo, and train.starts_from = {begins_with}: is a stage missing?"
    assert (missing in " ".join(said.split())) == (begins_with != "demo")
    with pytest.raises(DataError, match="there is no checkpoint"):
        initialise(model, str(tmp_path), dataset.classes)


def test_a_run_that_has_to_start_from_another_does(dataset, tmp_path):
    with pytest.raises(UsageError, match="starts from the weights of a run of first"):
        train(recipe("train.starts_from=first"), dataset.root, tmp_path / "run", gpus=0)
    assert not (tmp_path / "run").exists()


def test_a_run_with_all_labels(dataset, tmp_path):
    train(recipe("train.loss=sigmoid", "train.label_smoothing=0.1", "optim.epochs=3"), dataset.root, tmp_path, gpus=0)
    found = losses(tmp_path)
    # Six classes that begin at about a half each.
    assert found[0] == pytest.approx(6 * 0.693, rel=0.1)
    assert found[-1] < found[0]
    assert "val_top1" in (tmp_path / "log.jsonl").read_text()


@pytest.mark.parametrize("launcher", [{}, {"TORCHELASTIC_RUN_ID": "1", "RANK": "0", "WORLD_SIZE": "1"}])
def test_tasks_of_slurm_that_know_nothing_of_one_another_are_refused(dataset, tmp_path, launcher):
    environment = {**os.environ, "SLURM_STEP_NUM_TASKS": "2", **launcher}
    line = command(dataset, tmp_path / "run", "optim.epochs=1")
    done = subprocess.run(line, capture_output=True, text=True, env=environment)
    if launcher:
        assert (done.returncode, done.stderr) == (0, "")
        return
    assert done.returncode == 2
    assert done.stderr.startswith("v4d: srun started this 2 times, each by itself: ")
    assert not (tmp_path / "run").exists()
