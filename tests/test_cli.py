"""The commands as a person types them, in a work folder; and the one line that each mistake gets."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from cli import main
from preprocess.ordered_actions import render

TINY = [
    part
    for setting in ("model.base_width=4", "data.train_crop=32", "data.test_crop=32", "data.frames=2", "optim.epochs=1")
    for part in ("--set", setting)
]


@pytest.fixture(scope="session")
def rendered(tmp_path_factory):
    root = tmp_path_factory.mktemp("rendered")
    render(root, {"train": 2, "val": 1}, seed=3, workers=2, on_video=lambda: None)
    return root


@pytest.fixture
def work(rendered, tmp_path, monkeypatch):
    """A work folder with data/acts/videos."""
    shutil.copytree(rendered, tmp_path / "data" / "acts" / "videos")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def v4d(*arguments, code=0):
    """Run a command; what it printed, without the line breaks that depend on the width of the terminal."""
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == code, (result.output, result.exception)
    assert "Traceback" not in result.output
    return result.output


def test_the_three_commands_without_options(work):
    said = v4d("preprocess", "folder")
    assert "videos data/acts/videos, dataset shards/acts" in said
    assert "12 train, 6 val" in said
    assert json.loads((work / "shards/acts/dataset.json").read_text())["size"] == [320, 256]
    said = first = v4d("train", "--gpus", "0", *TINY)
    assert "dataset shards/acts, recipe v4d_small, run runs/acts-v4d_small, on the CPU" in said
    said = v4d("eval", "--u-infer", "5", "--gpus", "0")
    assert "runs/acts-v4d_small" in said
    assert "16.7%" in said
    assert (work / "runs/acts-v4d_small/eval-val-u5/scores.arrow").exists()
    # Another recipe goes beside the first run, the same one is known to be finished.
    assert "run runs/acts-v4d_small-2," in v4d("train", "--gpus", "0", *TINY, "--set", "train.seed=1")
    again = v4d("train", "--gpus", "0", *TINY)
    assert "run runs/acts-v4d_small," in again
    assert "is finished, at step 1" in again
    assert "trained runs" in first and "trained runs" not in again
    assert "already complete" in v4d("preprocess", "folder")


def test_more_gpus_than_there_are(work):
    import torch

    present = torch.cuda.device_count()
    said = v4d("train", "--gpus", str(present + 8), code=2)
    assert f"--gpus asks for {present + 8}: use --gpus {present}" in said


@pytest.mark.parametrize("command", [["preprocess", "folder"], ["train", "--gpus", "0"], ["eval", "--gpus", "0"]])
def test_an_empty_work_folder_says_what_is_missing(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    said = v4d(*command, code=2)
    assert said.startswith("v4d: there is no ")
    assert said.count("\n") == 1


def test_ambiguous_choices_are_listed(work):
    (work / "data" / "other" / "videos").mkdir(parents=True)
    said = v4d("preprocess", "folder", code=2)
    assert "choose one with --videos: data/acts/videos, data/other/videos" in said
    for name in ("a", "b"):
        (work / "shards" / name).mkdir(parents=True)
        (work / "shards" / name / "dataset.json").write_text("{}")
    assert "choose one with --data: shards/a, shards/b" in v4d("train", "--gpus", "0", code=2)


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["train", "--data", "nowhere", "--gpus", "0"], 1, "nowhere holds no dataset.json: run v4d preprocess"),
        (["eval", "nowhere", "--gpus", "0"], 1, "there is no checkpoint in nowhere"),
        (["preprocess", "folder", "--videos", "nowhere", "--out", "x"], 1, "nowhere is missing"),
        (["preprocess", "folder", "--resize", "320"], 2, "resize '320' is none of WxH, short:N and none"),
        (["preprocess", "folder", "--quality", "1"], 2, "quality 1 is not from 2 (best) to 31, as mjpeg has"),
        (["preprocess", "folder", "--val-fraction", "nan"], 2, "nan is no share from 0 to 1"),
        (
            ["models", "v4d_resnet19"],
            2,
            "no model matches 'v4d_resnet19' (did you mean 'v4d_resnet18'?)",
        ),
        (["models", "--crop", "8"], 2, "8 is not in the range"),
        (["train", "--gpus", "-1"], 2, "-1 is not in the range"),
        (["trian"], 2, "No such command 'trian'"),
    ],
)
def test_a_mistake_gets_one_clear_line(arguments, code, says, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert says in v4d(*arguments, code=code).replace("\n", " ")


LARGE_PAGES = """
from pathlib import Path
from click.testing import CliRunner
from cli import main

result = CliRunner().invoke(main, ["eval", "nowhere", "--gpus", "0"])
assert result.exit_code == 1, result.output
import torch

block = torch.ones(1 << 26)
lines = Path("/proc/self/smaps").read_text().splitlines()
print(sum(int(line.split()[1]) for line in lines if line.startswith("AnonHugePages")))
"""


def test_commands_compute_in_large_pages():
    if "[never]" in Path("/sys/kernel/mm/transparent_hugepage/enabled").read_text():
        pytest.skip("this kernel gives none")
    environment = {name: value for name, value in os.environ.items() if name != "THP_MEM_ALLOC_ENABLE"}
    done = subprocess.run([sys.executable, "-c", LARGE_PAGES], capture_output=True, text=True, env=environment)
    # Of 256 MB; the kernel may have some less.
    assert int(done.stdout) > 100_000, done.stderr


def test_who_reads_may_have_enough():
    """As head does: no word of a broken pipe."""
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, "-m", "cli", "runs", "--json"], stdout=writing, stderr=subprocess.PIPE, text=True
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (1, "")


def test_models_shows_what_they_cost():
    said = v4d("models", "*resnet18", "--classes", "1000", "--units", "4")
    rows = {line.split()[0]: line for line in said.splitlines() if "resnet18" in line}
    assert list(rows) == ["i3d_s_resnet18", "tsn_resnet18", "v4d_resnet18"]
    for figure in ("4 x 4", "224", "33.1 M", "58.6 G", "58.8 G"):
        assert figure in rows["v4d_resnet18"]
    (row,) = json.loads(v4d("models", "v4d_resnet50", "--frames", "2", "--crop", "112", "--json"))
    assert (row["name"], row["units"], row["frames"], row["crop"]) == ("v4d_resnet50", 4, 2, 112)
    assert row["parameters"] > 40e6
    assert row["with_norms_and_activations"] > row["multiply_adds"] > 10e9


def test_debug_shows_the_traceback(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(main, ["--debug", "train", "--data", "nowhere", "--gpus", "0"])
    assert type(result.exception).__name__ == "DataError"


def test_models_shows_what_a_test_costs():
    said = v4d("models", "*resnet18", "--inference")
    assert "v4d_resnet18" in said and "tsn_resnet18" in said and "i3d_s" not in said
    for line in (
        "144 + 144 + 144 498 2,756 G 2.75",
        "10 + 144 + 144 364 2,062 G 2.06",
        "10 + 42 + 102 187 1,001 G 1.00",
    ):
        assert line in " ".join(said.split())
    whole, written, distinct = json.loads(v4d("models", "v4d_resnet18", "--inference", "--u-infer", "8", "--json"))
    assert (whole["units_infer"], whole["units_train"], whole["unit_passes"]) == (8, 4, [64, 64, 64])
    assert whole["multiply_adds"] > written["multiply_adds"] > distinct["multiply_adds"]
    assert "--u-infer goes with --inference" in v4d("models", "--u-infer", "8", code=2)
    assert "below the 4 units" in v4d("models", "v4d_resnet18", "--inference", "--u-infer", "3", code=2)


@pytest.mark.parametrize(
    "command",
    [
        [],
        ["preprocess"],
        ["preprocess", "folder"],
        ["train"],
        ["eval"],
        ["models"],
        ["recipes"],
        ["recipes", "show"],
        ["demo"],
    ],
)
def test_every_command_explains_itself(command):
    said = v4d(*command, "--help")
    assert "Usage:" in said
    if command and command != ["preprocess"]:
        assert f"Example: v4d {' '.join(command)}" in said
