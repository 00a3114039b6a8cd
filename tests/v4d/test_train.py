"""The trainer: it learns, resumes exactly after SIGKILL, and says plainly what does not go together."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch

from preprocess.errors import DataError, UsageError
from preprocess.index import read_dataset
from v4d.checkpoint import LAST, load_checkpoint
from v4d.config import load_recipe
from v4d.train import TrainingError, train

SETTINGS = (
    "model.base_width=8",
    "train.global_batch=5",
    "optim.epochs=6",
    "train.checkpoint_every=2",
    "model.dropout=0.3",
)


def losses(run):
    records = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [(record["step"], record["loss"], record["top1"], record["lr"]) for record in records if "loss" in record]


def command(dataset, run, *more):
    sets = [part for setting in SETTINGS for part in ("--set", setting)]
    return [
        *(sys.executable, "-m", "cli", "train", "--gpus", "0", "--data", str(dataset.root), "--recipe", "demo"),
        *("--out", str(run), *sets, *more),
    ]


def wait_for(condition, process):
    until = time.monotonic() + 120
    while not condition():
        assert process.poll() is None, process.stderr.read().decode()
        assert time.monotonic() < until
        time.sleep(0.005)


def test_a_run_killed_three_times_is_the_run_that_was_not(dataset, tmp_path):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    subprocess.run(command(dataset, whole), check=True, env=environment, capture_output=True)
    last = killed / LAST
    moments = [
        lambda: (killed / "tensorboard").exists(),
        last.exists,
        lambda: load_checkpoint(last).step >= 14,
    ]
    for moment in moments:
        process = subprocess.Popen(command(dataset, killed), stderr=subprocess.PIPE, env=environment)
        wait_for(moment, process)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    done = subprocess.run(command(dataset, killed), check=True, env=environment, capture_output=True)
    assert b"going on at step" in done.stdout
    assert losses(killed) == losses(whole)
    assert [step for step, *_ in losses(whole)] == list(range(30))
    ends = [load_checkpoint(run / LAST) for run in (whole, killed)]
    assert all(torch.equal(ends[0].model[name], ends[1].model[name]) for name in ends[0].model)
    assert not list(killed.glob(".*.tmp"))


def test_ctrl_c_leaves_a_checkpoint_of_the_step(dataset, tmp_path):
    run = tmp_path / "run"
    process = subprocess.Popen(command(dataset, run), stderr=subprocess.PIPE)
    wait_for((run / LAST).exists, process)
    process.send_signal(signal.SIGINT)
    said = process.communicate()[1].decode()
    assert process.returncode == 130
    step = load_checkpoint(run / LAST).step
    assert f"stopped after step {step} of 30: the same command goes on from there" in said
    assert "Traceback" not in said


def test_several_processes_train_together(dataset, tmp_path):
    run = tmp_path / "run"
    sets = ["--set", "train.global_batch=10", "--set", "optim.epochs=2"]
    done = subprocess.run([*command(dataset, run, "--procs", "2"), *sets], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    # 24 videos in batches of 10: three steps an epoch, the last one padded.
    assert [step for step, *_ in losses(run)] == list(range(6))
    assert load_checkpoint(run / LAST).step == 6


def test_a_process_that_fails_says_so_in_a_line(dataset, tmp_path):
    damaged = tmp_path / "damaged"
    shutil.copytree(dataset.root, damaged)
    for shard in (damaged / "train").glob("*.tar"):
        shard.write_bytes(shard.read_bytes()[:1000])
    copy = read_dataset(damaged)
    done = subprocess.run(
        [*command(copy, tmp_path / "run", "--procs", "2"), "--set", "train.global_batch=4"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert re.search(r"^v4d: .*shard-0000\d\.tar.* is damaged: restore that file", done.stderr, re.MULTILINE)
    assert "Traceback" not in done.stderr


def test_it_learns_what_it_is_shown(dataset, tmp_path):
    recipe = load_recipe(
        "demo", ("model.base_width=8", "train.global_batch=6", "optim.epochs=25", "optim.lr=0.03", "data.scales=[1.0]")
    )
    train(recipe, dataset.root, tmp_path / "run", gpus=0)
    first, last = losses(tmp_path / "run")[:4], losses(tmp_path / "run")[-4:]
    assert sum(loss for _, loss, *_ in last) < 0.6 * sum(loss for _, loss, *_ in first)


def test_a_finished_run_is_left_as_it_is(dataset, recipe, tmp_path):
    train(recipe, dataset.root, tmp_path, gpus=0)
    before = (tmp_path / LAST).read_bytes()
    train(recipe, dataset.root, tmp_path, gpus=0)
    assert (tmp_path / LAST).read_bytes() == before


def test_another_recipe_or_dataset_is_refused(dataset, recipe, tmp_path):
    run = tmp_path / "run"
    train(recipe, dataset.root, run, gpus=0)
    other = recipe.model_copy(update={"model": recipe.model.model_copy(update={"base_width": 8})})
    with pytest.raises(UsageError, match=r"another recipe \(differing: model\)"):
        train(other, dataset.root, run, gpus=0)
    changed = tmp_path / "changed"
    shutil.copytree(dataset.root, changed)
    content = json.loads((changed / "dataset.json").read_text())
    (changed / "dataset.json").write_text(json.dumps({**content, "rejected": 99}))
    with pytest.raises(DataError, match="begun on another dataset"):
        train(recipe, changed, run, gpus=0)


def test_a_loss_that_is_not_finite_stops_the_run(dataset, recipe, tmp_path):
    wild = recipe.model_copy(update={"optim": recipe.optim.model_copy(update={"lr": 1e30, "warmup_epochs": 0})})
    with pytest.raises(TrainingError, match=r"the loss is nan at step \d+ \(learning rate .*\): lower optim.lr"):
        train(wild, dataset.root, tmp_path, gpus=0)


def test_a_full_disk_leaves_the_checkpoint_before_it(dataset, recipe, tmp_path, monkeypatch):
    def full(content, path):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    train(recipe.model_copy(update={"optim": recipe.optim.model_copy(update={"epochs": 1})}), dataset.root, tmp_path, 0)
    before = (tmp_path / LAST).read_bytes()
    (tmp_path / "two").mkdir()
    (tmp_path / "two" / LAST).write_bytes(before)
    monkeypatch.setattr(torch, "save", full)
    checkpoint_run = tmp_path / "new"
    with pytest.raises(TrainingError, match="No space left on device at step 2; the checkpoint before it is whole"):
        train(recipe, dataset.root, checkpoint_run, gpus=0)
    assert not [path for path in checkpoint_run.iterdir() if LAST in path.name]
