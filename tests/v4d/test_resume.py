"""Runs that are killed, moved to other processes or lose one: they go on exactly, and end where they would have."""

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch

from tests.v4d.conftest import TINY
from tests.v4d.frozen_norms import train_with_frozen_norms
from v4d.checkpoint import checkpoints_in, load_checkpoint
from v4d.launch import launch
from v4d.recipes.files import load_recipe

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}
KILLS = int(os.environ.get("V4D_TEST_KILLS", "2"))


def records(run):
    return [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]


def losses(run):
    return {record["step"]: record["loss"] for record in records(run) if "loss" in record}


def command(dataset, run, *more, settings=()):
    sets = [part for setting in (*TINY, *settings) for part in ("--set", setting)]
    line = [sys.executable, "-m", "cli", "train", "--gpus", "0", "--data", str(dataset.root), "--recipe", "demo"]
    return [*line, "--out", str(run), *sets, *more]


def begin(line):
    """A process with a group of its own, which a signal reaches as Ctrl-C does."""
    pipe = subprocess.PIPE
    return subprocess.Popen(line, stdout=pipe, stderr=pipe, env=ENVIRONMENT, text=True, start_new_session=True)


def wait_for(condition, process):
    until = time.monotonic() + 120
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < until
        time.sleep(0.005)


def ends(run):
    checkpoint = load_checkpoint(run)
    return checkpoint.step, checkpoint.loader, checkpoint.model, checkpoint.optimizer["state"]


def assert_same_bits(one, other):
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        for name, value in one.items():
            assert_same_bits(value, other[name])
    elif isinstance(one, torch.Tensor):
        assert torch.equal(one, other)
    else:
        assert one == other


def test_a_run_on_two_processes_killed_at_any_moment_is_the_run_that_was_not(dataset, tmp_path):
    settings = (f"optim.epochs={10 + KILLS}", "train.checkpoint_every=1", "train.validate_every=2", "model.dropout=0.3")
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    subprocess.run(command(dataset, whole, "--procs", "2", settings=settings), check=True, env=ENVIRONMENT)
    chance = random.Random(os.environ.get("V4D_TEST_SEED", "0"))
    steps = []
    for number in range(KILLS):
        process = begin(command(dataset, killed, "--procs", "2", settings=settings))
        # Mostly in its steps, checkpoints and validations, which are soon over; sometimes while it starts.
        before = max(checkpoints_in(killed), default=0)
        if number % 4 != 3:
            wait_for(lambda: max(checkpoints_in(killed), default=0) > before, process)  # noqa: B023 - called here
        time.sleep(chance.random() * 0.3)
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        steps.append(max(checkpoints_in(killed), default=0))
    assert steps[-1] < 6 * (10 + KILLS), "it was over before it was killed"
    print(f"killed at the checkpoints of steps {steps}")
    subprocess.run(command(dataset, killed, "--procs", "2", settings=settings), check=True, env=ENVIRONMENT)
    for one, other in zip(ends(killed), ends(whole), strict=True):
        assert_same_bits(one, other)
    assert losses(killed) == losses(whole)
    assert [r["val_top1"] for r in records(killed) if "val_top1" in r] == [
        r["val_top1"] for r in records(whole) if "val_top1" in r
    ]
    assert not list(killed.rglob(".*.tmp"))


def test_what_two_processes_began_one_and_four_go_on_with(dataset, tmp_path):
    """24 videos in batches of 20: of four processes three have no video in each second step, and all end together."""
    more = ("train.global_batch=20", "optim.epochs=3", "train.keep_every=1", "train.checkpoint_every=100")
    recipe = load_recipe("demo", (*TINY, *more, "model.dropout=0.0", "optim.lr=0.01", "optim.warmup_epochs=0"))
    two = tmp_path / "2"
    assert launch(train_with_frozen_norms, (recipe, dataset.root, two, 0), 0, 2)
    assert list(checkpoints_in(two)) == [2, 4, 6]
    for processes in (1, 4):
        moved = tmp_path / str(processes)
        shutil.copytree(two, moved)
        for step in (4, 6):
            shutil.rmtree(checkpoints_in(moved)[step])
        assert launch(train_with_frozen_norms, (recipe, dataset.root, moved, 0), 0, processes)
        assert list(losses(moved)) == list(range(6))
        # Each depends on the gradients of all steps before it.
        assert losses(moved) == pytest.approx(losses(two), rel=1e-5)
        for step in (4, 6):
            of_two, of_moved = (load_checkpoint(checkpoints_in(run)[step]) for run in (two, moved))
            assert of_two.loader == of_moved.loader
            torch.testing.assert_close(of_moved.model, of_two.model, rtol=1e-4, atol=1e-5)
    assert losses(two)[2] != losses(two)[0]


def children_of(process):
    """Those that train."""
    listed = subprocess.run(
        ["ps", "ww", "--ppid", str(process.pid), "-o", "pid=,args="], capture_output=True, text=True
    )
    return [int(line.split()[0]) for line in listed.stdout.splitlines() if "spawn_main" in line]


def test_a_lost_process_costs_the_steps_since_the_last_checkpoint(dataset, tmp_path):
    run, settings = tmp_path / "run", ("optim.epochs=100", "train.checkpoint_every=5", "train.validate_every=0")
    process = begin(command(dataset, run, "--procs", "2", "--max-restarts", "1", settings=settings))
    wait_for(lambda: checkpoints_in(run), process)
    before = children_of(process)
    os.kill(before[-1], signal.SIGKILL)
    wait_for(lambda: not set(before) & set(children_of(process)), process)
    reached = max(checkpoints_in(run))
    wait_for(lambda: max(checkpoints_in(run)) > reached + 10, process)
    # Once more is once too often.
    os.kill(children_of(process)[0], signal.SIGKILL)
    said, wrong = process.communicate()
    assert process.returncode == 1
    again = r"v4d: process \d of 2 ended with (signal 9|exit code 75)"
    assert re.search(rf"^{again}: restart 1 of at most 1, from the last checkpoint$", wrong, re.MULTILINE)
    assert re.search(rf"^{again}: its last words are above\n\Z", wrong, re.MULTILINE)
    assert f"going on at step {reached} of 600" in said
    assert "Traceback" not in wrong
    last = max(checkpoints_in(run))
    assert list(losses(run))[:last] == list(range(last))


def test_torchrun_starts_the_processes_too(dataset, tmp_path):
    run, settings = tmp_path / "run", ("optim.epochs=15", "train.checkpoint_every=7", "train.validate_every=0")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    process = begin([*torchrun, *command(dataset, run, settings=settings)[1:]])
    wait_for(lambda: checkpoints_in(run), process)
    # From a terminal: torchrun passes on what the processes have heard already.
    os.killpg(process.pid, signal.SIGINT)
    said, _ = process.communicate()
    step = max(checkpoints_in(run))
    assert f"stopped after step {step} of 90: go on with v4d train --resume {run}" in said
    done = subprocess.run(
        [*torchrun, "-m", "cli", "train", "--resume", str(run)], capture_output=True, text=True, env=ENVIRONMENT
    )
    assert done.returncode == 0, done.stderr
    # Of the two one speaks.
    assert [done.stdout.count(part) for part in ("dataset ", f"going on at step {step} of 90", "evaluate it")] == [
        1
    ] * 3
    assert list(losses(run)) == list(range(90))


def test_the_folder_alone_says_how_to_go_on(dataset, recipe, tmp_path):
    run, moved = tmp_path / "run", tmp_path / "moved"
    settings = ("optim.epochs=9", "train.checkpoint_every=1", "train.validate_every=0")
    process = begin(command(dataset, run, "--procs", "2", "--max-bad", "0.5", settings=settings))
    wait_for(lambda: checkpoints_in(run), process)
    process.send_signal(signal.SIGTERM)
    said, _ = process.communicate()
    assert process.returncode == 0
    assert f"go on with v4d train --resume {run}" in said
    shutil.copytree(dataset.root, moved)
    on = [sys.executable, "-m", "cli", "train", "--resume", str(run)]
    done = subprocess.run([*on, "--data", str(moved)], capture_output=True, text=True, env=ENVIRONMENT)
    assert done.returncode == 0, done.stderr
    assert "on the CPU, 2 processes" in done.stdout
    assert re.search(r"going on at step \d+ of 54", done.stdout)
    assert list(losses(run)) == list(range(54))
    record = json.loads((run / "run.json").read_text())
    assert (record["dataset"], record["max_bad"], record["end"]["state"]) == (str(moved), 0.5, "finished")
