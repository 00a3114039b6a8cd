"""Videos that cannot be loaded, as training and evaluation count them, on one process or two, and --max-bad."""

import json
import re
import subprocess
import sys
from dataclasses import replace
from itertools import islice

import pyarrow as pa
import pytest
import torch
from click.testing import CliRunner
from rich.console import Console

from cli import main
from pipelines import TrainLoader
from preprocess.errors import DataError
from tests.pipelines.broken import copied, place_of
from tests.preprocess.damage import flip
from v4d.checkpoint import load_checkpoint
from v4d.evaluation.evaluate import Request, evaluate
from v4d.evaluation.protocols import Protocol
from v4d.launch import Place
from v4d.train import train

CPU = torch.device("cpu")
# Rows of each split with a damaged packet in every place.
BAD = {"train": (3, 11, 20), "val": (0, 7)}


@pytest.fixture(scope="module")
def damaged(dataset, tmp_path_factory):
    """The dataset, with some videos of which every packet is damaged."""
    copy = copied(dataset, tmp_path_factory.mktemp("damaged") / "data")
    for split, rows in BAD.items():
        for number in rows:
            for frame in range(copy.split(split)[number].frames):
                shard, begin, _ = place_of(copy, split, number, frame)
                flip(shard, begin + 9, 2)
    return copy


def records(run):
    return [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]


def left_out_by_step(run):
    return [record["left_out"] for record in records(run) if "loss" in record]


def expected_by_step(data, recipe):
    """How many bad videos of the epoch the steps so far held."""
    options = {"global_batch": recipe.train.global_batch, "seed": recipe.train.seed, "device": CPU, "max_bad": 1.0}
    loader = TrainLoader(data, "train", recipe.data.train_sampling(), **options)
    counts = []
    for step, batch in enumerate(islice(loader, recipe.optim.epochs * loader.steps_per_epoch)):
        before = 0 if step % loader.steps_per_epoch == 0 else counts[-1]
        counts.append(before + loader.videos_in(step) - int(batch.mask_B.sum()))
    return counts


def test_the_log_counts_them_in_each_epoch(damaged, recipe, tmp_path):
    train(recipe, damaged.root, tmp_path / "run", gpus=0, max_bad=1.0)
    counts = left_out_by_step(tmp_path / "run")
    assert counts == expected_by_step(damaged, recipe)
    # Two epochs of six steps, in each of which all of them come.
    assert counts[5] == counts[11] == len(BAD["train"])
    (said,) = [record for record in records(tmp_path / "run") if "val_top1" in record]
    assert said["val_left_out"] == len(BAD["val"])


def test_a_run_that_ended_by_it_goes_on_to_the_same_end(damaged, recipe, tmp_path):
    recipe = recipe.model_copy(update={"train": recipe.train.model_copy(update={"checkpoint_every": 1})})
    whole, ended = tmp_path / "whole", tmp_path / "ended"
    train(recipe, damaged.root, whole, gpus=0, max_bad=1.0)
    with pytest.raises(
        DataError, match=r"^3 of 24 videos cannot be loaded, more than --max-bad 0\.1 allows; the last: "
    ):
        train(recipe, damaged.root, ended, gpus=0, max_bad=0.1)
    # The third of them came in mid-epoch, behind a checkpoint: what came before it still counts.
    step = load_checkpoint(ended).step
    assert 0 < step < 6
    assert left_out_by_step(whole)[step - 1] == 2
    train(recipe, damaged.root, ended, gpus=0, max_bad=1.0)
    assert left_out_by_step(ended) == left_out_by_step(whole)
    assert [r["loss"] for r in records(ended) if "loss" in r] == [r["loss"] for r in records(whole) if "loss" in r]


def command(data, run, recipe, *more):
    settings = {
        "model.base_width": 4,
        "data.train_crop": 32,
        "data.test_crop": 32,
        "data.frames": 2,
        "train.global_batch": recipe.train.global_batch,
        "optim.epochs": 2,
        "train.checkpoint_every": 2,
        "train.validate_every": 0,
    }
    sets = [part for name, value in settings.items() for part in ("--set", f"{name}={value}")]
    line = [sys.executable, "-m", "cli", "train", "--gpus", "0", "--procs", "2", "--data", str(data.root)]
    return [*line, "--recipe", "demo", "--out", str(run), *sets, *more]


def test_two_processes_count_what_one_does(damaged, recipe, tmp_path):
    run = tmp_path / "run"
    done = subprocess.run(command(damaged, run, recipe, "--max-bad", "1"), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert left_out_by_step(run) == expected_by_step(damaged, recipe)
    (said,) = [record for record in records(run) if "val_top1" in record]
    assert said["val_left_out"] == len(BAD["val"])
    named = re.findall(
        r"^v4d: .*the packet of frame \d+ of '(.*)' at byte \d+ is damaged: left out$", done.stderr, re.M
    )
    assert sorted(set(named)) == sorted(damaged.split(split)[row].key for split, rows in BAD.items() for row in rows)


def test_two_processes_end_together_and_one_says_why(damaged, recipe, tmp_path):
    done = subprocess.run(command(damaged, tmp_path / "run", recipe), capture_output=True, text=True)
    assert done.returncode == 1
    (said,) = re.findall(r"^v4d: \d of 24 videos cannot be loaded.*$", done.stderr, re.M)
    assert re.search(r"more than --max-bad 0\.001 allows; the last: .*shard-0000\d\.tar.* is damaged: restore", said)
    assert "Traceback" not in done.stderr


def test_evaluation_says_how_many(damaged, recipe, tmp_path):
    train(recipe, damaged.root, tmp_path / "run", gpus=0, max_bad=1.0)
    request = Request(tmp_path / "run", tmp_path / "out", Protocol(units_infer=4), batch=5, max_bad=1.0)
    where = Place(CPU), Console(quiet=True)
    accuracy = evaluate(request, *where)
    assert (accuracy.videos, accuracy.left_out) == (10, 2)
    assert json.loads((tmp_path / "out" / "accuracy.json").read_text())["left_out"] == 2
    keys = pa.ipc.open_file(tmp_path / "out" / "scores.arrow").read_all()["key"].to_pylist()
    assert keys == [row.key for number, row in enumerate(damaged.split("val")) if number not in BAD["val"]]
    with pytest.raises(DataError, match=r"^1 of 12 videos cannot be loaded, more than --max-bad 0\.001"):
        evaluate(replace(request, out=tmp_path / "other", max_bad=0.001), *where)
    assert not (tmp_path / "other" / "accuracy.json").exists()
    line = ["eval", str(tmp_path / "run"), "--u-infer", "4", "--gpus", "0", "--out", str(tmp_path / "typed")]
    done = CliRunner().invoke(main, [*line, "--max-bad", "0.2"])
    assert done.exit_code == 0, done.output
    assert "evaluated 10 videos, 2 left out" in done.output


@pytest.mark.parametrize("command", ["train", "eval"])
@pytest.mark.parametrize("share", ["-0.1", "1.5", "nan", "some"])
def test_a_share_is_from_0_to_1(command, share):
    done = CliRunner().invoke(main, [command, "--max-bad", share])
    assert done.exit_code == 2
    assert "--max-bad" in done.output and "Traceback" not in done.output
