"""Signals, a full disk and losses that are not finite: what is saved, what is said, and the exit code."""

import json
import os
import re
import resource
import shutil
import signal
import subprocess

import pytest
import torch

from tests.v4d.conftest import TINY
from tests.v4d.test_resume import begin, children_of, command, losses, records, wait_for
from v4d import validation
from v4d.checkpoint import checkpoints_in, find_checkpoint, load_checkpoint
from v4d.evaluation.scoring import scored_batches
from v4d.recipes.files import load_recipe
from v4d.train import TrainingError, train

SETTINGS = ("optim.epochs=50", "train.checkpoint_every=7", "train.validate_every=0")
STEPS = 300


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_stops_one_process_at_a_checkpoint_of_the_step(dataset, tmp_path, number):
    run = tmp_path / "run"
    process = begin(command(dataset, run, settings=SETTINGS))
    wait_for(lambda: checkpoints_in(run), process)
    process.send_signal(number)
    said, wrong = process.communicate()
    assert process.returncode == 0, wrong
    step = max(checkpoints_in(run))
    assert f"stopped after step {step} of {STEPS}: go on with v4d train --resume {run}\n" in said
    assert list(losses(run)) == list(range(step))
    assert "trained" not in said and not wrong
    assert json.loads((run / "run.json").read_text())["end"] == {"state": "stopped", "why": ""}


@pytest.mark.parametrize(
    ("number", "to_all"),
    [(signal.SIGINT, True), (signal.SIGTERM, False), (signal.SIGUSR1, True)],
)
def test_a_signal_stops_two_processes_at_one_step(dataset, tmp_path, number, to_all):
    """A terminal's Ctrl-C, and what ends a job, reach all processes of the group; ``kill`` reaches one."""
    run = tmp_path / "run"
    process = begin(command(dataset, run, "--procs", "2", settings=SETTINGS))
    wait_for(lambda: checkpoints_in(run), process)
    (os.killpg if to_all else os.kill)(process.pid, number)
    said, wrong = process.communicate()
    assert process.returncode == 0, wrong
    step = max(checkpoints_in(run))
    assert f"stopped after step {step} of {STEPS}: go on with v4d train --resume {run}\n" in said
    assert list(losses(run)) == list(range(step))
    assert load_checkpoint(run).loader["epoch"] * 6 + load_checkpoint(run).loader["step"] == step
    assert not wrong


def test_a_signal_that_comes_while_processes_start_is_heard(dataset, tmp_path):
    run = tmp_path / "run"
    process = begin(command(dataset, run, "--procs", "2", settings=SETTINGS))
    wait_for((run / "lock").exists, process)
    os.killpg(process.pid, signal.SIGINT)
    said, wrong = process.communicate()
    assert (process.returncode, wrong) == (0, "")
    assert re.search(r"stopped after step [12] of 300", said)


def test_a_stop_in_validation_leaves_that_to_do_again(dataset, recipe, tmp_path, monkeypatch):
    often = recipe.model_copy(update={"train": recipe.train.model_copy(update={"validate_every": 1})})
    run, whole = tmp_path / "run", tmp_path / "whole"
    assert train(often, dataset.root, whole, gpus=0)

    begun = []

    def after_a_signal(*arguments):
        begun.append(arguments)
        # That of the first epoch; the second time that of the second, after the one that was left to do.
        if len(begun) in (1, 3):
            os.kill(os.getpid(), signal.SIGUSR1)
        yield from scored_batches(*arguments)

    monkeypatch.setattr(validation, "scored_batches", after_a_signal)
    for epoch in (1, 2):
        assert not train(often, dataset.root, run, gpus=0)
        assert max(checkpoints_in(run)) == 6 * epoch
        assert len([record for record in records(run) if "val_top1" in record]) == epoch - 1
    assert train(often, dataset.root, run, gpus=0)
    scores = [[(r["step"], r["val_top1"]) for r in records(of) if "val_top1" in r] for of in (run, whole)]
    assert scores[0] == scores[1]
    assert [step for step, _ in scores[0]] == [5, 11]


def test_a_second_ctrl_c_ends_at_once(dataset, tmp_path):
    """Of two that cannot hear the first, as they stand still."""
    run = tmp_path / "run"
    process = begin(command(dataset, run, "--procs", "2", settings=SETTINGS))
    wait_for(lambda: checkpoints_in(run), process)
    for child in children_of(process):
        os.kill(child, signal.SIGSTOP)
    process.send_signal(signal.SIGINT)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(1)
    process.send_signal(signal.SIGINT)
    _, wrong = process.communicate()
    assert process.returncode == 130
    assert wrong == "v4d: stopped at once: the same command goes on from the last checkpoint\n"
    assert load_checkpoint(run).step % 7 == 0


def test_a_full_disk_ends_no_run(dataset, tmp_path):
    """No file of the process may grow any more, which the system refuses as it does on a full disk."""
    run = tmp_path / "run"
    settings = ("optim.epochs=10", "train.checkpoint_every=7", "train.validate_every=0")
    process = begin(command(dataset, run, settings=settings))
    wait_for(lambda: checkpoints_in(run), process)
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (1, resource.RLIM_INFINITY))
    _, wrong = process.communicate()
    assert process.returncode == 1
    kept = max(checkpoints_in(run))
    assert kept < 60 and load_checkpoint(run).step == kept
    warned = re.findall(r"NO CHECKPOINT of step (\d+): File too large. Training goes on; what is saved ends at", wrong)
    assert [int(step) for step in warned] == [step for step in (*range(7, 60, 7), 60) if step > kept]
    assert "the log takes no more: File too large" in wrong
    last = wrong.splitlines()[-1]
    assert last.startswith("v4d: the checkpoint of step 60, the last one, could not be written: File too large. Mend")
    assert last.endswith(f"v4d train --resume {run}")
    assert "Traceback" not in wrong and not list(run.rglob(".*.tmp"))
    assert train(load_recipe("demo", (*TINY, *settings)), dataset.root, run, gpus=0)
    assert list(losses(run)) == list(range(60))


def test_the_last_the_best_and_each_so_many_are_kept(dataset, recipe, tmp_path):
    changes = {"keep_every": 3, "validate_every": 1, "checkpoint_every": 5}
    recipe = recipe.model_copy(
        update={
            "train": recipe.train.model_copy(update=changes),
            "optim": recipe.optim.model_copy(update={"epochs": 7}),
        }
    )
    assert train(recipe, dataset.root, tmp_path, gpus=0)
    scores = {r["step"] + 1: r["val_top1"] for r in records(tmp_path) if "val_top1" in r}
    assert list(scores) == [6 * epoch for epoch in range(1, 8)]
    best = max(scores, key=scores.get)
    assert set(checkpoints_in(tmp_path)) == {best, 18, 36, 42}
    assert find_checkpoint(tmp_path / "best") == checkpoints_in(tmp_path)[best]
    assert find_checkpoint(tmp_path) == find_checkpoint(tmp_path / "last") == checkpoints_in(tmp_path)[42]


@pytest.mark.parametrize(
    ("lr", "decay", "what"),
    # The first loss is finite in both; in the second no weight is any more after it.
    [(1e30, 0.0, "the loss is nan"), (1e30, 1e20, "weights are not finite")],
)
def test_a_loss_that_is_not_finite_names_the_videos(dataset, recipe, tmp_path, lr, decay, what):
    optim = recipe.optim.model_copy(update={"lr": lr, "weight_decay": decay, "warmup_epochs": 0})
    often = recipe.train.model_copy(update={"checkpoint_every": 1})
    with pytest.raises(TrainingError) as refused:
        train(recipe.model_copy(update={"optim": optim, "train": often}), dataset.root, tmp_path, gpus=0)
    said = re.fullmatch(
        r"(.*) at step (\d+) \(learning rate (.*)\): lower optim.lr, or look at the videos (.*)", str(refused.value)
    )
    (logged,) = [record for record in records(tmp_path) if "error" in record]
    assert said[1] == logged["error"] == what
    assert (logged["step"], f"{logged['lr']:g}") == (int(said[2]), said[3])
    assert logged["videos"] == said[4].split(", ")
    assert len(logged["videos"]) == 4
    assert set(logged["videos"]) <= {row.key for row in dataset.split("train")}
    assert records(tmp_path)[-1] == logged
    assert json.loads((tmp_path / "run.json").read_text())["end"] == {"state": "failed", "why": str(refused.value)}
    # Weights that are not finite never take the place of others.
    for path in checkpoints_in(tmp_path).values():
        assert all(value.isfinite().all() for value in load_checkpoint(path).model.values())


def test_of_two_processes_the_one_with_the_bad_videos_names_them(dataset, tmp_path):
    run = tmp_path / "run"
    wild = ("optim.epochs=2", "optim.lr=1e30", "optim.warmup_epochs=0", "train.checkpoint_every=100")
    done = subprocess.run(
        command(dataset, run, "--procs", "2", settings=wild), capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 1
    (logged,) = [record for record in records(run) if "error" in record]
    assert f"{logged['error']} at step {logged['step']} (learning rate {logged['lr']:g})" in done.stderr
    assert len(logged["videos"]) in (2, 4)
    assert "restart" not in done.stderr and "Traceback" not in done.stderr


def test_a_checkpoint_of_one_file_as_it_was_goes_on(dataset, recipe, tmp_path):
    new, old = tmp_path / "new", tmp_path / "old"
    train(recipe, dataset.root, new, gpus=0)
    checkpoint = load_checkpoint(new)
    old.mkdir()
    content = {name: value for name, value in vars(checkpoint).items() if name != "extras"}
    content |= {"recipe": recipe.model_dump_json(), "classes": list(checkpoint.classes)}
    torch.save(content, old / "last.pt")
    assert load_checkpoint(old).step == 12
    assert torch.equal(load_checkpoint(old).model["classifier.weight"], checkpoint.model["classifier.weight"])
    shutil.copy(new / "log.jsonl", old)
    assert train(recipe, dataset.root, old, gpus=0)
    assert not checkpoints_in(old)
