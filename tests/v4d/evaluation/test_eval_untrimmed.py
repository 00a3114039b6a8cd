"""v4d eval on a dataset as ActivityNet: its figures are those that its evaluator has of the submission."""

import json
import shutil
from functools import partial

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from cli import main
from pipelines import UntrimmedLoader
from preprocess.datasets.activitynet import list_activitynet
from preprocess.errors import UsageError
from preprocess.ffmpeg import EncodeOptions
from preprocess.index import read_dataset, shard_name
from preprocess.local import write_shards_locally
from preprocess.run import preprocess
from tests.v4d.untrained import untrained_run
from v4d.evaluation.protocols import Protocol
from v4d.evaluation.scores_file import read_scores
from v4d.evaluation.untrimmed import SnippetScoring, snippet_scores
from v4d.evaluation.window_integration import integrated
from v4d.recipes.files import load_recipe
from v4d.trained import load_trained

CPU = torch.device("cpu")
CLASSES = ('Playing "squash"', "Höchst<b>", "Longboarding", "Never")
# Seconds, and the labels of each.
VIDEOS = {
    "abcdefghijk": (9, [0]),
    "-_cdefghijk": (21, [0, 1]),
    "v_cdefghijk": (3, [2]),
    "bbcdefghijk": (33, [1, 1]),
    "cbcdefghijk": (6, [2, 0]),
    "dbcdefghijk": (14, [0]),
}
TINY = ("model.base_width=4", "data.test_crop=32", "data.frames=2", "data.stride=3", "train.loss=sigmoid")


@pytest.fixture(scope="module")
def untrimmed(run_ffmpeg, tmp_path_factory):
    root = tmp_path_factory.mktemp("anet")
    (root / "videos").mkdir()
    database = {}
    for seed, (name, (seconds, labels)) in enumerate(VIDEOS.items()):
        source = f"gradients=size=64x48:speed=0.08:nb_colors=6:seed={seed}:rate=5:duration={seconds}"
        run_ffmpeg("-f", "lavfi", "-i", source, "-c:v", "libx264", "-qp", "10", root / "videos" / f"v_{name}.mkv")
        parts = [{"label": CLASSES[k], "segment": [i, i + 1.5]} for i, k in enumerate(labels)]
        database[name] = {"subset": "validation", "annotations": parts, "duration": seconds}
    leaves = [{"nodeName": name, "parentName": "Root"} for name in CLASSES]
    taxonomy = [{"nodeName": "Root", "parentName": None}, *leaves]
    document = {"version": "VERSION 1.3", "taxonomy": taxonomy, "database": database}
    (root / "annotations.json").write_text(json.dumps(document))
    listing = list_activitynet(root / "annotations.json", root / "videos")
    preprocess(listing, root / "shards", EncodeOptions("40x32"), partial(write_shards_locally, workers=2), shard_size=3)
    return root


def run_of(root, to, *settings):
    untrained_run(to, load_recipe("demo", (*TINY, *settings)), read_dataset(root / "shards"))
    return to


@pytest.fixture(scope="module")
def run(untrimmed, tmp_path_factory):
    return run_of(untrimmed, tmp_path_factory.mktemp("runs") / "run")


def command(*arguments, code=0):
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exit_code == code, (result.output, result.exception)
    return result.output


def evaluator(annotations, submission, subset="validation"):
    """Mean average precision, Hit@1 and Hit@3 as the benchmark's evaluator has them, from the two files alone."""
    truth = json.loads(annotations.read_text())
    said = json.loads(submission.read_text())
    assert set(said) == {"version", "results", "external_data"}
    labels = {}
    for video, about in truth["database"].items():
        if about["subset"] == subset:
            labels[video] = {part["label"] for part in about["annotations"]}
    averages = []
    for name in sorted(set().union(*labels.values())):
        mine = [
            (entry["score"], video)
            for video, entries in said["results"].items()
            for entry in entries
            if entry["label"] == name
        ]
        positives = sum(name in of_video for of_video in labels.values())
        precision, recall, right = [0.0], [0.0], 0
        for rank, (_, video) in enumerate(sorted(mine, reverse=True), 1):
            right += name in labels.get(video, ())
            precision.append(right / rank)
            recall.append(right / positives)
        precision, recall = [*precision, 0.0], [*recall, 1.0]
        for i in reversed(range(len(precision) - 1)):
            precision[i] = max(precision[i], precision[i + 1])
        averages.append(sum((recall[i] - recall[i - 1]) * precision[i] for i in range(1, len(recall))))
    hits = [
        np.mean([
            any(entry["label"] in labels[video] for entry in sorted(entries, key=lambda e: -e["score"])[:k])
            for video, entries in said["results"].items()
        ])
        for k in (1, 3)
    ]  # fmt: skip
    return float(np.mean(averages)), *map(float, hits)


def test_its_figures_are_those_of_the_benchmarks_evaluator(untrimmed, run, tmp_path):
    file = tmp_path / "new" / "submission.json"
    # Of logits there are no ties, of which the benchmark's evaluator says what chance wills.
    options = ["--gpus", 0, "--crops", 1, "--scores", "logits", "--submission", file]
    said = command("eval", run, "--protocol", "untrimmed", *options)
    out = run / "eval-val-untrimmed-1-crops1-logits"
    assert f"submission: {file}" in said
    assert "mean average precision" in said
    assert "Hit@3" in said
    accuracy = json.loads((out / "accuracy.json").read_text())
    found = accuracy["mean_average_precision"], accuracy["hit1"], accuracy["hit3"]
    assert found == pytest.approx(evaluator(untrimmed / "annotations.json", file))
    assert accuracy["intervals"]["mean_average_precision"][0] <= found[0]
    assert found[0] <= accuracy["intervals"]["mean_average_precision"][1]
    assert accuracy["protocol"] == "untrimmed"
    assert accuracy["units_per_second"] == 1.0
    assert accuracy["windows"] == [1, 2, 4, 8, 16]
    by_class = {of["class"]: of["average_precision"] for of in accuracy["per_class"]}
    assert by_class.pop("Never") is None
    assert np.mean(list(by_class.values())) == pytest.approx(found[0])

    document = json.loads(file.read_text())
    assert document["version"] == "VERSION 1.3"
    assert document["external_data"] == {"used": False, "details": ""}
    assert set(document["results"]) == set(VIDEOS)
    dump = read_scores(out)
    assert len(np.unique(dump.scores_NK[:, :3])) == 3 * len(VIDEOS)
    for key, labels, scores in zip(dump.keys, dump.labels, dump.scores_NK, strict=True):
        assert labels == tuple(sorted({sorted(CLASSES).index(CLASSES[k]) for k in VIDEOS[key][1]}))
        entries = document["results"][key]
        assert [entry["score"] for entry in entries] == sorted((float(s) for s in map(str, scores)), reverse=True)
        assert {entry["label"]: np.float32(entry["score"]) for entry in entries} == dict(
            zip(sorted(CLASSES), scores, strict=True)
        )


def test_scores_are_those_of_snippets_integrated(untrimmed, run):
    command("eval", run, "--protocol", "untrimmed", "--units-per-second", 2, "--gpus", 0, "--scores", "logits")
    dump = read_scores(run / "eval-val-untrimmed-2-logits")
    trained = load_trained(run)
    take = Protocol("untrimmed").sampling(trained.recipe.data)
    dataset = read_dataset(untrimmed / "shards")
    loader = UntrimmedLoader(dataset, "val", take, units_per_second=2.0, least_units=4, batch=1, device=CPU)
    how = SnippetScoring(trained.model, trained.recipe, "logits")
    for number, video in enumerate(snippet_scores(how, loader)):
        assert dump.keys[number] == video.key
        assert len(video.scores_MK) == max(4, 2 * VIDEOS[video.key][0]) - 3
        np.testing.assert_allclose(dump.scores_NK[number], integrated(video.scores_MK), rtol=1e-4, atol=1e-4)


def test_batches_change_nothing(run, tmp_path):
    options = ["--protocol", "untrimmed", "--gpus", 0, "--crops", 1]
    command("eval", run, *options, "--out", tmp_path / "one", "--batch", 1)
    command("eval", run, *options, "--out", tmp_path / "five", "--batch", 5)
    one, five = ((tmp_path / name / "scores.arrow").read_bytes() for name in ("one", "five"))
    assert one == five


def test_of_each_video_so_many_classes(run, tmp_path):
    file = tmp_path / "submission.json"
    options = ["--protocol", "untrimmed", "--gpus", 0, "--crops", 1, "--out", tmp_path / "out"]
    command("eval", run, *options)
    said = command("eval", run, *options, "--submission", file, "--submission-top", 2)
    assert "has this evaluation already" in said
    document = json.loads(file.read_text())
    dump = read_scores(tmp_path / "out")
    for key, scores in zip(dump.keys, dump.scores_NK, strict=True):
        best = [sorted(CLASSES)[k] for k in np.argsort(-scores)[:2]]
        assert [entry["label"] for entry in document["results"][key]] == best
    said = command("eval", run, *options, "--submission-top", 2, code=2)
    assert said.splitlines()[-1] == "v4d: --submission-top is for --submission FILE"


def test_trimmed_protocols_have_the_figures_too(untrimmed, tmp_path):
    run = run_of(untrimmed, tmp_path / "run", "train.loss=softmax", "train.init=/secret/place/weights.safetensors")
    file = tmp_path / "submission.json"
    options = ["--gpus", 0, "--crops", 1, "--scores", "logits", "--submission", file]
    command("eval", run, "--u-infer", 4, *options)
    accuracy = json.loads((run / "eval-val-u4-crops1-logits" / "accuracy.json").read_text())
    found = accuracy["mean_average_precision"], accuracy["hit1"], accuracy["hit3"]
    assert found == pytest.approx(evaluator(untrimmed / "annotations.json", file))
    assert "calibration_error" in accuracy
    details = json.loads(file.read_text())["external_data"]
    assert details == {"used": True, "details": "training started from the weights weights.safetensors"}


def test_segments_are_no_submission(untrimmed, tmp_path):
    run = run_of(untrimmed, tmp_path / "run", "data.over=segment")
    file = tmp_path / "submission.json"
    options = ["--gpus", 0, "--crops", 1, "--submission", file]
    said = command("eval", run, "--u-infer", 4, *options, code=1)
    assert said.splitlines()[-1].startswith("v4d: the scores are of segments")
    assert not file.exists()
    command("eval", run, "--protocol", "untrimmed", *options)
    assert len(json.loads(file.read_text())["results"]) == len(VIDEOS)


def test_a_damaged_video_is_left_out_of_all(untrimmed, run, tmp_path):
    root = shutil.copytree(untrimmed / "shards", tmp_path / "shards")
    row = next(row for row in read_dataset(root).split("val") if row.key == "bbcdefghijk")
    with open(root / "val" / shard_name(row.shard), "r+b") as file:
        file.seek(row.offset + row.size // 2)
        file.write(bytes(row.size // 4))
    options = ["--protocol", "untrimmed", "--gpus", 0, "--crops", 1, "--data", root, "--out", tmp_path / "out"]
    said = command("eval", run, *options, code=1)
    assert "1 of 6 videos cannot be loaded, more than --max-bad 0.001 allows" in said.splitlines()[-1]
    file = tmp_path / "submission.json"
    said = command("eval", run, *options, "--max-bad", 0.5, "--submission", file)
    assert "evaluated 5 videos, 1 left out" in said
    assert set(json.loads(file.read_text())["results"]) == set(VIDEOS) - {row.key}


def test_the_order_of_time_is_kept(recipe):
    for protocol in (Protocol("untrimmed", reverse="units"), Protocol("untrimmed", shuffle="units")):
        with pytest.raises(UsageError, match="--protocol untrimmed keeps the order of time"):
            protocol.check(recipe.data)


@pytest.mark.parametrize("rate", ["nan", "0", "-1", "1000"])
def test_a_rate_that_is_none_is_refused(run, rate):
    said = command("eval", run, "--protocol", "untrimmed", "--units-per-second", rate, code=2)
    assert "is no rate from 0.01 to 100" in said.splitlines()[-1]
