"""Scores straight from files: those that evaluation gives after preprocessing; and what the command says."""

import errno
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from cli import main
from preprocess import single_files
from preprocess.directions import flip_of
from preprocess.encode import encode
from preprocess.errors import UsageError
from preprocess.index import VERSION
from v4d.checkpoint import find_checkpoint, load_checkpoint, save_checkpoint
from v4d.config import Recipe
from v4d.evaluation.scores_file import read_scores
from v4d.prediction.predict import Prediction, video_files
from v4d.trained import load_trained
from v4d.weights.weights_file import save_weights

ON = ("--u-infer", "5", "--gpus", "0")


def v4d(*arguments, code=0):
    """Run a command: what it printed, and what it said besides."""
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exit_code == code, (result.output, result.exception)
    assert "Traceback" not in result.output
    return result.stdout, result.stderr


def documents(said):
    return [json.loads(line) for line in said.splitlines()]


@pytest.mark.parametrize("loss", ["softmax", "sigmoid"])
def test_scores_are_those_of_evaluation(loss, run, videos, tmp_path):
    checkpoint = load_checkpoint(run)
    recipe = Recipe.model_validate(checkpoint.recipe.model_dump() | {"train": {"loss": loss}})
    save_checkpoint(run, replace(checkpoint, step=4, recipe=recipe))
    v4d("eval", run, *ON)
    wanted = read_scores(run / "eval-val-u5").scores_NK
    said, beside = v4d("predict", *videos, "--run", run, *ON, "--json", "--top", "6")
    assert beside == ""
    found = documents(said)
    assert [document["video"] for document in found] == list(map(str, videos))
    names = load_trained(run).classes
    for document, scores_K in zip(found, wanted, strict=True):
        numbers = [one["number"] for one in document["classes"]]
        assert [one["class"] for one in document["classes"]] == [names[number] for number in numbers]
        scores = [one["score"] for one in document["classes"]]
        assert scores == sorted(scores, reverse=True)
        np.testing.assert_allclose(scores, scores_K[numbers], rtol=0, atol=1e-5)
        assert document["v4d"] == VERSION and document["step"] == 4 and document["u_infer"] == 5
    # They are not all alike.
    assert np.ptp(wanted, axis=0).max() > 0.01
    weights, dataset = tmp_path / "acts.safetensors", load_trained(run).dataset
    v4d("export-weights", run, "--out", weights)
    said, _ = v4d("predict", *videos, "--run", weights, "--data", dataset, *ON, "--json", "--top", "6")
    assert [document["classes"] for document in documents(said)] == [document["classes"] for document in found]


@pytest.mark.parametrize("crops", [1, 10])
def test_other_crops_are_those_of_evaluation(crops, run, videos, dataset, tmp_path):
    """Two classes name a direction: of a mirrored crop each has the other's score, wherever the frames come from."""
    root = shutil.copytree(dataset.root, tmp_path / "shards")
    content, checkpoint = json.loads((root / "dataset.json").read_text()), load_checkpoint(run)
    classes = ("turn left", "turn right", *content["classes"][2:])
    flip = {str(label): other for label, other in enumerate(flip_of(classes)) if other != label}
    assert (flip["0"], flip["1"]) == (1, 0)
    (root / "dataset.json").write_text(json.dumps({**content, "classes": classes, "flip": flip}))
    save_checkpoint(run, replace(checkpoint, step=4, classes=classes))
    v4d("eval", run, *ON, "--crops", crops, "--data", root, "--out", tmp_path / "scores")
    wanted = read_scores(tmp_path / "scores").scores_NK
    for data in (root, dataset.root):
        said, _ = v4d("predict", *videos, "--run", run, *ON, "--json", "--top", 6, "--crops", crops, "--data", data)
        for document, scores_K in zip(documents(said), wanted, strict=True):
            assert document["crops"] == crops
            numbers = [one["number"] for one in document["classes"]]
            scores = [one["score"] for one in document["classes"]]
            np.testing.assert_allclose(scores, scores_K[numbers], rtol=0, atol=1e-5)


def test_a_person_reads_the_top_classes(run, videos):
    said, _ = v4d("predict", videos[0], "--run", run, *ON, "--top", "2")
    name, *rows = said.splitlines()
    assert name == str(videos[0])
    (document,) = documents(v4d("predict", videos[0], "--run", run, *ON, "--top", "2", "--json")[0])
    assert rows == [f"  {one['score']:6.1%}  {one['class']}" for one in document["classes"]]


def test_damaged_files_get_a_line_each_and_the_others_go_on(run, videos, tmp_path, monkeypatch):
    folder = tmp_path / "mixed"
    (folder / "deep" / "er").mkdir(parents=True)
    shutil.copy(videos[0], folder / "b.mp4")
    shutil.copy(videos[1], folder / "deep" / "er" / "d.MOV")
    (folder / "a.mkv").write_text("no video")
    (folder / "c.mp4").write_bytes(videos[0].read_bytes()[:3000])
    (folder / "notes.txt").write_text("no video, and no name of one")
    (folder / ".hidden.mp4").write_text("hidden")
    monkeypatch.chdir(tmp_path)
    said, beside = v4d("predict", "mixed", "gone.mp4", *ON, "--top", "1", code=1)
    assert said.splitlines()[::2] == ["mixed/b.mp4", "mixed/deep/er/d.MOV"]
    lines = beside.splitlines()
    assert [line.split(": ")[:2] for line in lines[:3]] == [
        ["v4d", path] for path in ("mixed/a.mkv", "mixed/c.mp4", "gone.mp4")
    ]
    assert lines[3:] == ["v4d: 3 of 5 files could not be read"]
    said, _ = v4d("predict", "mixed", "gone.mp4", *ON, "--json", code=1)
    assert [("error" in one, one["video"]) for one in documents(said)] == [
        *[(True, "mixed/a.mkv"), (False, "mixed/b.mp4"), (True, "mixed/c.mp4"), (False, "mixed/deep/er/d.MOV")],
        (True, "gone.mp4"),
    ]


def test_a_fault_of_the_machine_costs_one_file(run, videos, tmp_path, monkeypatch):
    """As a disk that is full while ffmpeg works, or one that cannot read a sector."""

    def encode_or_fail(source, *arguments, **options):
        if source == videos[1]:
            raise OSError(errno.EIO, "Input/output error")
        return encode(source, *arguments, **options)

    monkeypatch.setattr(single_files, "encode", encode_or_fail)
    said, beside = v4d("predict", *videos[:3], "--run", run, *ON, "--top", "1", code=1)
    assert said.splitlines()[::2] == [str(videos[0]), str(videos[2])]
    assert beside.splitlines() == [f"v4d: {videos[1]}: Input/output error", "v4d: 1 of 3 files could not be read"]


def test_a_network_that_diverged_says_so(run, videos):
    checkpoint = load_checkpoint(run)
    checkpoint.model["classifier.bias"][2] = torch.nan
    save_checkpoint(run, replace(checkpoint, step=4))
    for options in ([], ["--json"]):
        said, beside = v4d("predict", *videos[:2], "--run", run, *ON, *options, code=1)
        assert said == ""
        assert beside.splitlines() == [
            f"v4d: {find_checkpoint(run)} gives scores that are no numbers, first to '{videos[0]}'"
        ]


def test_a_weights_file_says_what_it_does_not_know(run, dataset, videos, tmp_path):
    """The dataset gives size, codec and rate of frames; without it, there are those of preprocessing by default."""
    path, trained = tmp_path / "acts.safetensors", load_trained(run)
    save_weights(path, trained.model, (), trained.recipe.data)
    options = ("--run", path, *ON, "--json", "--top", "6")
    said, beside = v4d("predict", videos[0], *options)
    assert beside.startswith(f"note: {path}: says nothing of a dataset: frames are made as v4d preprocess does by")
    assert {one["class"] for one in documents(said)[0]["classes"]} == {f"class {i}" for i in range(6)}
    assert documents(said)[0]["weights"] == str(path)
    with_data, beside = v4d("predict", videos[0], *options, "--data", dataset.root)
    assert beside == ""
    (by_run,) = documents(v4d("predict", videos[0], "--run", run, *ON, "--json", "--top", "6")[0])
    assert documents(with_data)[0]["classes"] == by_run["classes"]
    assert documents(said)[0]["classes"] != by_run["classes"]


def test_a_dataset_that_is_gone_is_noted(run, videos):
    save_checkpoint(run, replace(load_checkpoint(run), step=4, dataset="/gone/acts"))
    said, beside = v4d("predict", videos[0], "--run", run, *ON, "--json")
    assert "/gone/acts, which it was trained on, is gone: frames are made as v4d preprocess does" in beside
    assert len(documents(said)) == 1


def test_what_cannot_be_is_one_line(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    assert "empty holds no video" in v4d("predict", "empty", "--run", run, code=2)[1]
    assert "--u-infer 3 is below the 4" in v4d("predict", "x.mp4", "--run", run, "--u-infer", "3", code=2)[1]
    assert "there is no checkpoint in none" in v4d("predict", "x.mp4", "--run", "none", code=1)[1]
    assert "Missing argument 'VIDEO...'" in v4d("predict", code=2)[1]


def test_files_are_found_in_order_and_once(tmp_path):
    for name in ("b/2.mp4", "b/10.mp4", "a.webm", "b/x.txt", ".git/c.mp4"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "b" / "again").symlink_to(tmp_path)
    found = video_files([tmp_path / "b" / "2.mp4", tmp_path, tmp_path / "b" / "x.txt"])
    assert [str(path.relative_to(tmp_path)) for path in found] == ["b/2.mp4", "a.webm", "b/10.mp4", "b/x.txt"]
    (tmp_path / "none").mkdir()
    with pytest.raises(UsageError, match="none holds no video"):
        video_files([tmp_path / "none"])


def test_equal_scores_come_by_number():
    prediction = Prediction(Path("x"), np.array([0.25, 0.5, 0.25, 0.5], np.float32))
    assert [number for number, _ in prediction.top(3)] == [1, 3, 0]
    assert len(prediction.top(9)) == 4


def test_h264_without_a_gpu_is_noted(run, dataset, videos, tmp_path):
    """Only what dataset.json says of frames is read."""
    content = json.loads((dataset.root / "dataset.json").read_text())
    content["codec"] = content["options"]["codec"] = "h264"
    content["options"] |= {"gop": 8, "quality": 23}
    (tmp_path / "dataset.json").write_text(json.dumps(content))
    said, beside = v4d("predict", videos[0], "--run", run, "--data", tmp_path, *ON, "--json")
    assert beside == f"note: {tmp_path} is H.264, which only a GPU decodes here: frames are JPEGs of best quality\n"
    assert len(documents(said)) == 1
