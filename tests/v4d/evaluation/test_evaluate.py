"""Evaluation: accuracy against a count by hand, the dump of scores, checkpoints that do not fit."""

import io
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np
import pyarrow as pa
import pytest
import torch
from click.testing import CliRunner
from rich.console import Console

from cli import main
from pipelines import EvalLoader
from preprocess.errors import DataError, UsageError
from preprocess.index import read_dataset
from tests.v4d.untrained import untrained_run
from v4d.checkpoint import STATE, WEIGHTS, find_checkpoint, load_checkpoint, load_weights, save_checkpoint
from v4d.config import ModelConfig
from v4d.evaluation.commands import _default_folder
from v4d.evaluation.evaluate import Accuracy, Request, evaluate
from v4d.evaluation.measures import measures_of, single_label_measures
from v4d.evaluation.protocols import Protocol
from v4d.evaluation.scores_file import read_scores as scores_of
from v4d.evaluation.tables import measure_tables
from v4d.inference import Activation, video_scores
from v4d.launch import Place
from v4d.models.network import V4D
from v4d.weights.weights_file import save_weights

CPU = torch.device("cpu")


def evaluated(run, **changes):
    units = changes.pop("units_infer", 5)
    request = Request(run, **{"out": run / "out", "protocol": Protocol(units_infer=units), "batch": 5, **changes})
    return evaluate(request, Place(CPU), Console(quiet=True))


def test_accuracy_and_scores_are_what_the_network_says(dataset, run):
    accuracy = evaluated(run)
    checkpoint = load_checkpoint(run)
    model = V4D(checkpoint.recipe.model, 6).eval()
    load_weights(model, checkpoint, run)
    loader = EvalLoader(dataset, "val", checkpoint.recipe.data.test_sampling(5), global_batch=1, device=CPU)
    assert all(len(batch.crops) == 3 for batch in loader)
    by_hand = [
        (
            loader.index[i].key,
            batch.labels_B.item(),
            sum(video_scores(model, crop, 5, 4) for crop in batch.crops)[0] / len(batch.crops),
        )
        for i, batch in enumerate(loader)
    ]
    table = read_scores(run / "out")
    about = json.loads(table.schema.metadata[b"v4d"])
    assert about["u_infer"] == 5
    assert about["step"] == 3
    assert table["key"].to_pylist() == [key for key, *_ in by_hand]
    assert table["label"].to_pylist() == [label for _, label, _ in by_hand]
    scores = torch.tensor(table["scores"].to_pylist())
    torch.testing.assert_close(scores, torch.stack([s for *_, s in by_hand]), rtol=0, atol=1e-5)
    ranked = [s.argsort(descending=True).tolist() for *_, s in by_hand]
    hits = [order.index(label) for order, (_, label, _) in zip(ranked, by_hand, strict=True)]
    assert accuracy.videos == len(by_hand) == 12
    assert accuracy.top1 == pytest.approx(sum(hit < 1 for hit in hits) / 12)
    assert accuracy.top5 == pytest.approx(sum(hit < 5 for hit in hits) / 12)
    assert json.loads((run / "out" / "accuracy.json").read_text())["top1"] == accuracy.top1


def read_scores(out):
    with pa.memory_map(str(out / "scores.arrow")) as source:
        return pa.ipc.open_file(source).read_all()


def command(*arguments, code=0):
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exit_code == code, (result.output, result.exception)
    return result.output


def test_a_run_and_its_weights_file_have_the_same_scores(dataset, run, tmp_path):
    path = tmp_path / "acts.safetensors"
    command("export-weights", run, "--out", path)
    options = ["--u-infer", "5", "--gpus", "0"]
    said = command("eval", path, "--data", dataset.root, *options)
    command("eval", run, *options)
    there, here = tmp_path / "acts-eval-val-u5", run / "eval-val-u5"
    assert f"scores: {there / 'scores.arrow'}" in said
    assert "note:" not in said
    assert read_scores(there).equals(read_scores(here))
    about = json.loads(read_scores(there).schema.metadata[b"v4d"])
    assert about["weights"] == str(path)
    assert about["source"] == "recipe demo, step 3"
    assert about["data"]["frames"] == 2
    assert not {"step", "checkpoint", "recipe"} & set(about)
    accuracy, of_run = (json.loads((out / "accuracy.json").read_text()) for out in (there, here))
    assert about.items() <= accuracy.items()
    assert all(accuracy[key] == of_run[key] for key in ("videos", "top1", "top5", "u_infer", "dataset", "crops"))
    said = command("eval", path, *options, code=2)
    assert said.splitlines()[-1] == f"v4d: {path} says nothing of a dataset: name one with --data"
    said = command("eval", tmp_path / "none.safetensors", "--data", dataset.root, *options, code=1)
    assert said.splitlines()[-1] == f"v4d: there is no weights file {tmp_path / 'none.safetensors'}"


def test_another_datasets_scores_take_the_place_of_none(dataset, run, tmp_path):
    other = shutil.copytree(dataset.root, tmp_path / "elsewhere")
    content = json.loads((other / "dataset.json").read_text())
    (other / "dataset.json").write_text(json.dumps({**content, "kind": "another"}))
    options = ["--u-infer", "5", "--gpus", "0"]
    command("eval", run, *options, "--data", dataset.root)
    before = (run / "eval-val-u5" / "scores.arrow").read_bytes()
    command("eval", run, *options, "--data", other)
    assert (run / "eval-elsewhere-val-u5" / "scores.arrow").exists()
    assert (run / "eval-val-u5" / "scores.arrow").read_bytes() == before
    assert sorted(path.name for path in run.glob("eval*")) == ["eval-elsewhere-val-u5", "eval-val-u5"]


def test_a_dataset_that_was_moved_is_the_same(dataset, run, tmp_path):
    moved = shutil.copytree(dataset.root, tmp_path / "moved")
    options = ["--u-infer", "5", "--gpus", "0"]
    command("eval", run, *options)
    assert "has this evaluation already" in command("eval", run, *options, "--data", moved)
    checkpoint = load_checkpoint(run)
    save_checkpoint(run, replace(checkpoint, step=4, dataset=str(tmp_path / "gone")))
    command("eval", run, *options, "--data", moved)
    assert scores_of(run / "eval-val-u5").about["step"] == 4
    assert [path.name for path in run.glob("eval*")] == ["eval-val-u5"]
    # What lies at its place now is what is evaluated without --data.
    content = json.loads((moved / "dataset.json").read_text())
    (moved / "dataset.json").write_text(json.dumps({**content, "kind": "another"}))
    save_checkpoint(run, replace(checkpoint, step=5, dataset=str(moved)))
    command("eval", run, *options, "--data", moved)
    assert [path.name for path in run.glob("eval*")] == ["eval-val-u5"]


def test_scores_of_a_checkpoint_outlive_it(run, monkeypatch):
    checkpoint = find_checkpoint(run)
    out = run / f"{checkpoint.name}-eval-val-u5"
    had = sorted(checkpoint.iterdir())
    options = ["--u-infer", "5", "--gpus", "0"]
    assert f"scores: {out / 'scores.arrow'}" in command("eval", checkpoint, *options)
    for path in (checkpoint / WEIGHTS, checkpoint / STATE):
        assert _default_folder(path, "eval-val-u5") == out
    monkeypatch.chdir(checkpoint)
    for here in (Path(), Path(WEIGHTS)):
        assert _default_folder(here, "eval-val-u5") == out
    assert sorted(checkpoint.iterdir()) == had
    copied = shutil.copytree(checkpoint, run / "elsewhere" / "kept")
    assert _default_folder(copied, "eval-val-u5") == run / "elsewhere" / "kept-eval-val-u5"


@pytest.mark.parametrize("kind", get_args(Activation))
def test_what_is_averaged_is_chosen(kind, run):
    command("eval", run, "--u-infer", "5", "--gpus", "0", "--scores", kind)
    out = run / f"eval-val-u5-{kind}"
    table = read_scores(out)
    assert json.loads(table.schema.metadata[b"v4d"])["scores"] == kind
    assert json.loads((out / "accuracy.json").read_text())["scores"] == kind
    checkpoint = load_checkpoint(find_checkpoint(run))
    model = V4D(checkpoint.recipe.model, 6).eval()
    load_weights(model, checkpoint, run)
    take = checkpoint.recipe.data.test_sampling(5)
    loader = EvalLoader(read_dataset(Path(checkpoint.dataset)), "val", take, global_batch=12, device=CPU)
    (batch,) = loader
    expected = sum(video_scores(model, crop, 5, 4, activation=kind) for crop in batch.crops) / len(batch.crops)
    torch.testing.assert_close(torch.tensor(table["scores"].to_pylist()), expected, rtol=0, atol=1e-5)
    # They are three different things.
    sums = expected.sum(dim=1)
    assert {"softmax": sums.allclose(torch.ones(12)), "sigmoid": expected.min() > 0, "logits": expected.min() < 0}[kind]
    assert sums.allclose(torch.ones(12)) == (kind == "softmax")


def test_scores_of_another_kind_are_refused(run):
    said = command("eval", run, "--scores", "probabilities", code=2)
    assert "'probabilities' is not one of 'softmax', 'logits', 'sigmoid'" in said


def test_a_weights_file_of_other_classes_is_refused(dataset, recipe, tmp_path):
    path, out = tmp_path / "ours.safetensors", tmp_path / "out"

    def of(classes, names):
        save_weights(path, V4D(recipe.model, classes), names, recipe.data)
        said = io.StringIO()
        request = Request(path, out, Protocol(units_infer=4), dataset.root, batch=12)
        evaluate(request, Place(CPU), Console(file=said, width=500))
        return said.getvalue()

    names = dataset.classes
    assert "note:" not in of(6, names)
    assert f"note: {path} names no classes: they are taken for the dataset's, in its order" in of(6, ())
    with pytest.raises(DataError, match=rf"other classes than .*ours\.safetensors: class 0 is '{names[0]}' there"):
        of(6, (*names[1:], names[0]))
    with pytest.raises(DataError, match=r"other classes than .*ours\.safetensors: 6 there, 7 here"):
        of(7, ())
    with pytest.raises(UsageError, match="--u-infer 3 is below the 4"):
        evaluated(path, units_infer=3, root=dataset.root, out=out)


@pytest.mark.parametrize("batch", [1, 7, 12])
def test_the_batch_does_not_change_the_accuracy(run, batch):
    assert evaluated(run, batch=batch, out=run / "other") == evaluated(run)


def test_a_missing_checkpoint_is_named(tmp_path):
    with pytest.raises(DataError, match=r"there is no checkpoint in .*: train first"):
        evaluated(tmp_path)


@pytest.mark.parametrize("damage", [b"", b"no checkpoint", "half"])
def test_a_damaged_checkpoint_is_named(run, damage):
    state = find_checkpoint(run) / STATE
    content = state.read_bytes()
    state.write_bytes(content[: len(content) // 2] if damage == "half" else damage)
    with pytest.raises(DataError, match=r"state\.pt is damaged or no checkpoint"):
        evaluated(run)


def test_no_file_is_advised_to_be_unpickled(tmp_path):
    """As torch does of one that it does not know."""
    (tmp_path / "clip.mp4").write_bytes(b"\x00\x00\x00 ftypisom")
    said = command("eval", tmp_path / "clip.mp4", "--gpus", "0", code=1)
    assert said.splitlines()[-1] == f"v4d: {tmp_path / 'clip.mp4'} is damaged or no checkpoint of v4d"


def test_code_in_a_checkpoint_is_never_run(run, tmp_path):
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "touched"), "w"))

    torch.save({"model": Evil()}, find_checkpoint(run) / STATE)
    with pytest.raises(DataError, match=r"state\.pt is damaged or no checkpoint"):
        evaluated(run)
    assert not (tmp_path / "touched").exists()


def test_a_dataset_that_is_gone_is_named(run):
    checkpoint = load_checkpoint(run)
    save_checkpoint(run, replace(checkpoint, step=4, dataset="/gone/shards/acts"))
    with pytest.raises(DataError, match=r"/gone/shards/acts, which .* is gone: name the dataset with --data"):
        evaluated(run)


def test_another_file_of_torch_is_named(run):
    torch.save({"state_dict": {}}, find_checkpoint(run) / STATE)
    with pytest.raises(DataError, match=r"state\.pt is no checkpoint of this version"):
        evaluated(run)


def test_another_architecture_is_refused(run):
    checkpoint = load_checkpoint(run)
    wider = V4D(ModelConfig(base_width=8), 6)
    with pytest.raises(UsageError, match=r"another architecture: classifier.weight is \(6, 32\) there and \(6, 64\)"):
        load_weights(wider, checkpoint, run)


def test_another_datasets_classes_are_refused(dataset, run, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    content = json.loads((dataset.root / "dataset.json").read_text())
    content["classes"][2] = "juggling"
    (other / "dataset.json").write_text(json.dumps(content))
    assert read_dataset(other).classes != dataset.classes
    with pytest.raises(DataError, match="class 2 is 'juggling' there"):
        evaluated(run, root=other)


def test_too_few_units_are_refused(run):
    with pytest.raises(UsageError, match="--u-infer 3 is below the 4"):
        evaluated(run, units_infer=3)


def test_every_measure_is_shown_and_kept(run):
    said = command("eval", run, "--u-infer", "5", "--gpus", "0", "--protocol", "tsn", "--crops", "1", "--classes")
    out = run / "eval-val-tsn-u5-crops1"
    document = json.loads((out / "accuracy.json").read_text())
    measures = measures_of(scores_of(out))
    for name, title in (("top1", "top-1"), ("top5", "top-5"), ("mean_class_accuracy", "mean class accuracy"),
                        ("calibration_error", "calibration error")):  # fmt: skip
        figure = measures.figures[name]
        assert document[name] == figure.value
        assert document["intervals"][name] == [figure.low, figure.high]
        (line,) = [line for line in said.splitlines() if f" {title} " in line and "┃" not in line]
        assert f"{figure.value:.1%}" in line
    names = load_checkpoint(run).classes
    assert [of["class"] for of in document["per_class"]] == list(names)
    assert [of["videos"] for of in document["per_class"]] == [2] * 6
    assert [sum(row) for row in document["confusion"]] == [2] * 6
    assert all(any(name in line for line in said.splitlines()) for name in names)
    assert document["class_names"] == list(names)
    assert (document["protocol"], document["u_infer"], document["crops"]) == ("tsn", 5, 1)


@pytest.mark.parametrize("classes", [3, 14])
def test_classes_that_are_not_shown_are_counted_without_those_that_no_video_has(classes, tmp_path):
    measures = single_label_measures(np.eye(classes)[:-1], np.arange(classes - 1))
    names = tuple(f"class {number}" for number in range(classes))
    accuracy = Accuracy(classes - 1, classes, 1, 1, min(5, classes), measures=measures, class_names=names)
    for every_class in (False, True):
        said = [part for part in measure_tables(accuracy, "t", tmp_path, every_class) if isinstance(part, str)]
        assert [line.split(":")[0] for line in said] == (
            ["10 of 13 classes"] if classes > 10 and not every_class else []
        )


def test_orders_have_folders_of_their_own(run):
    options = ["--u-infer", "4", "--gpus", "0", "--crops", "1"]
    for more, name, about in (
        (["--reverse", "units"], "eval-val-u4-crops1-reverse-units", {"reverse": "units", "shuffle": None}),
        (["--shuffle", "units", "--shuffle-seed", "2"], "eval-val-u4-crops1-shuffle-units-2", {"shuffle_seed": 2}),
    ):
        assert f"scores: {run / name / 'scores.arrow'}" in command("eval", run, *options, *more)
        assert about.items() <= scores_of(run / name).about.items()
    said = command("eval", run, *options, "--reverse", "both", "--shuffle", "units", code=2)
    assert said.splitlines()[-1].startswith("v4d: --shuffle units leaves nothing of --reverse both")


def test_a_recipe_of_several_labels_is_measured_so(dataset, recipe, tmp_path):
    several = recipe.model_copy(update={"train": recipe.train.model_copy(update={"loss": "sigmoid"})})
    untrained_run(tmp_path / "run", several, dataset)
    said = command("eval", tmp_path / "run", "--u-infer", "4", "--gpus", "0", "--crops", "1", "--classes")
    precisions = measures_of(scores_of(tmp_path / "run" / "eval-val-u4-crops1")).average_precision_K
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in said.splitlines() if line.count("│") == 4]
    assert rows[-6:] == [
        [dataset.classes[k], "2", f"{precisions[k]:.1%}"] for k in np.argsort(precisions, kind="stable")
    ]
    assert "top-1" in said and "top-5" in said and "mean class accuracy" not in said
    document = json.loads((tmp_path / "run" / "eval-val-u4-crops1" / "accuracy.json").read_text())
    assert document["scores"] == document["loss"] == "sigmoid"
    assert "confusion" not in document
    # And so is its weights file, or that of one of its checkpoints.
    exported, scores = tmp_path / "acts.safetensors", scores_of(tmp_path / "run" / "eval-val-u4-crops1")
    command("export-weights", tmp_path / "run", "--out", exported)
    for path in (exported, find_checkpoint(tmp_path / "run") / WEIGHTS):
        options = ["--data", dataset.root, "--u-infer", "4", "--gpus", "0", "--crops", "1", "--out", tmp_path / "out"]
        command("eval", path, *options)
        found = scores_of(tmp_path / "out")
        assert found.about["weights"] == str(path)
        assert found.is_multi_label and found.about["scores"] == "sigmoid"
        np.testing.assert_array_equal(found.scores_NK, scores.scores_NK)
