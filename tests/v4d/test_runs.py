"""v4d runs: what it says of runs that finished, stopped, failed, were killed or go on; and --resume's mistakes."""

import json
import shutil
from datetime import datetime, timedelta, timezone

import pytest
from click.testing import CliRunner

from cli import main
from preprocess.durable_files import held
from preprocess.index import VERSION
from v4d.checkpoint import checkpoints_in
from v4d.recipes.files import load_recipe
from v4d.runs import choose_run_to_train, last_checkpoint, read_record
from v4d.train import TrainingError, train


def v4d(*arguments, code=0):
    result = CliRunner(env={"COLUMNS": "250"}).invoke(main, list(map(str, arguments)))
    assert result.exit_code == code, (result.output, result.exception)
    assert "Traceback" not in result.output
    return result.output


@pytest.fixture(scope="module")
def runs(dataset, tmp_path_factory):
    """A folder of runs: finished, failed, and copies of the first that say they were stopped or killed."""
    folder = tmp_path_factory.mktemp("runs")
    tiny = ("model.base_width=4", "data.train_crop=32", "data.test_crop=32", "data.frames=2", "train.global_batch=4")
    settings = (*tiny, "optim.epochs=2", "train.checkpoint_every=4", "train.validate_every=1", "train.keep_every=1")
    assert train(load_recipe("demo", settings), dataset.root, folder / "finished", gpus=0)
    with pytest.raises(TrainingError):
        train(load_recipe("demo", (*settings, "optim.lr=1e30")), dataset.root, folder / "failed", gpus=0)
    for name, end in (("stopped", {"state": "stopped", "why": ""}), ("killed", None)):
        shutil.copytree(folder / "finished", folder / name)
        record = json.loads((folder / name / "run.json").read_text())
        (folder / name / "run.json").write_text(json.dumps({**record, "end": end}))
        shutil.rmtree(checkpoints_in(folder / name)[12])
    (folder / "no run").mkdir()
    (folder / "a file").write_text("")
    return folder


def test_the_list_says_how_far_each_is(dataset, runs):
    found = {run["run"].split("/")[-1]: run for run in json.loads(v4d("runs", "--folder", runs, "--json"))}
    assert list(found) == ["failed", "finished", "killed", "stopped"]
    states = {name: (run["state"], run["step"], run["steps"]) for name, run in found.items()}
    assert states["finished"] == ("finished", 12, 12)
    assert states["stopped"] == ("stopped", 6, 12)
    assert states["killed"] == ("failed", 6, 12)
    assert states["failed"][0] == "failed"
    assert "ended without a word" in found["killed"]["why"]
    assert "at step" in found["failed"]["why"] and "lower optim.lr" in found["failed"]["why"]
    log = [json.loads(line) for line in (runs / "finished" / "log.jsonl").open()]
    scores = [record["val_top1"] for record in log if "val_top1" in record]
    assert found["finished"]["score"] == max(scores)
    assert found["finished"]["best_step"] == 6 * (scores.index(max(scores)) + 1)
    assert (found["finished"]["recipe"], found["finished"]["dataset"]) == ("demo", str(dataset.root))
    since = datetime.now(timezone.utc) - datetime.fromisoformat(found["finished"]["changed"])
    assert timedelta(seconds=-1) < since < timedelta(hours=1)
    said = v4d("runs", "--folder", runs)
    assert "killed failed: its process ended without a word" in said
    assert "12 of 12" in said and f"{max(scores):.1%}" in said


def test_a_run_is_going_on_while_its_lock_is_held(runs):
    with held(runs / "killed" / "lock", "x"):
        said = json.loads(v4d("runs", "--folder", runs, "--json"))
    (killed,) = [run for run in said if run["run"].endswith("killed")]
    # The log is ahead of the checkpoints.
    assert (killed["state"], killed["why"], killed["step"]) == ("running", "", 12)


def test_a_run_is_shown_whole(dataset, runs):
    shown = json.loads(v4d("runs", "show", runs / "finished", "--json"))
    assert (shown["state"], shown["fingerprint"]) == ("finished", dataset.fingerprint)
    assert shown["recipe"]["train"]["global_batch"] == 4
    assert shown["versions"]["v4d"] == VERSION
    assert [epoch["epoch"] for epoch in shown["epochs"]] == [1, 2]
    log = [json.loads(line) for line in (runs / "finished" / "log.jsonl").open()]
    of_second = [record["loss"] for record in log if "loss" in record and record["epoch"] == 2]
    assert shown["epochs"][1]["loss"] == pytest.approx(sum(of_second) / len(of_second))
    assert [(c["step"], c["last"]) for c in shown["checkpoints"]] == [(6, False), (12, True)]
    assert [c["best"] for c in shown["checkpoints"]] == [c["step"] == shown["best_step"] for c in shown["checkpoints"]]
    kept = checkpoints_in(runs / "finished")[12]
    assert shown["checkpoints"][1]["bytes"] == sum(path.stat().st_size for path in kept.iterdir())
    said = v4d("runs", "--folder", runs, "show", "finished")
    assert "finished: finished, step 12 of 12" in said
    assert f"dataset {dataset.root}, fingerprint {dataset.fingerprint[:12]}" in said
    assert "train: global_batch 4" in said and f"{kept.parent.name}/{kept.name}" in said


def test_what_is_no_run_is_named(runs, tmp_path):
    assert "nowhere is no run: there is no" in v4d("runs", "show", tmp_path / "nowhere", code=1)
    assert f"there is no run in {tmp_path}/" in v4d("runs", "--folder", tmp_path)
    shutil.copytree(runs / "finished", tmp_path / "later")
    record = json.loads((tmp_path / "later" / "run.json").read_text())
    (tmp_path / "later" / "run.json").write_text(json.dumps({**record, "format": 2}))
    assert "run.json is of another version of v4d: format" in v4d("runs", "show", tmp_path / "later", code=1)
    (tmp_path / "cut short").mkdir()
    (tmp_path / "cut short" / "run.json").write_text('{"format": 1, ')
    assert "run.json is damaged: Invalid JSON" in v4d("runs", "show", tmp_path / "cut short", code=1)
    assert "run.json is of another version of v4d: format" in v4d("runs", "--folder", tmp_path)
    (tmp_path / "later" / "run.json").write_text("{")
    assert "run.json is damaged: Invalid JSON" in v4d("runs", "show", tmp_path / "later", code=1)


@pytest.mark.parametrize(
    "given", [("--recipe", "demo"), ("--out", "x"), ("--init", "x"), ("--set", "optim.lr=1"), ("--keyframe-starts",)]
)
def test_a_resumed_run_has_its_own_recipe(runs, given):
    said = v4d("train", "--resume", runs / "finished", *given, code=2)
    assert f"leave out {given[0]}" in said


def test_a_run_is_resumed_on_its_own_dataset_only(dataset, runs, tmp_path):
    assert "nowhere is no run" in v4d("train", "--resume", tmp_path / "nowhere", code=1)
    other = tmp_path / "other"
    shutil.copytree(dataset.root, other)
    content = json.loads((other / "dataset.json").read_text())
    (other / "dataset.json").write_text(json.dumps({**content, "rejected": 99}))
    said = v4d("train", "--resume", runs / "stopped", "--data", other, code=1)
    assert "was begun on another dataset" in said
    assert read_record(runs / "stopped").dataset == dataset.root


def test_the_run_of_a_dataset_and_recipe_is_found_again(dataset, runs, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    recipe = read_record(runs / "finished").recipe
    first = choose_run_to_train(dataset, recipe)
    shutil.copytree(runs / "finished", tmp_path / first)
    assert last_checkpoint(first) is not None
    assert choose_run_to_train(dataset, recipe) == first
    other = recipe.model_copy(update={"about": "another"})
    assert choose_run_to_train(dataset, other) == first.with_name(f"{first.name}-2")
