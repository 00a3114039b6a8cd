"""Evaluation: accuracy against a count by hand, the dump of scores, checkpoints that do not fit."""

import json
from dataclasses import replace

import pyarrow as pa
import pytest
import torch
from rich.console import Console

from pipelines import EvalLoader
from preprocess.errors import DataError, UsageError
from preprocess.index import read_dataset
from v4d.checkpoint import LAST, Checkpoint, load_checkpoint, load_weights, save_checkpoint
from v4d.config import ModelConfig
from v4d.evaluate import evaluate
from v4d.inference import video_scores
from v4d.models.network import V4D

CPU = torch.device("cpu")


@pytest.fixture
def run(dataset, recipe, tmp_path):
    """A run whose network was never trained, but has statistics of its own."""
    torch.manual_seed(1)
    model = V4D(recipe.model, len(dataset.classes))
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm3d):
            module.running_mean.uniform_(-0.1, 0.1)
    torch.nn.init.normal_(model.classifier.weight)
    checkpoint = Checkpoint(
        step=3,
        recipe=recipe,
        classes=dataset.classes,
        dataset=str(dataset.root),
        fingerprint=dataset.fingerprint,
        model=model.state_dict(),
        optimizer={},
        loader={},
    )
    save_checkpoint(tmp_path / "run" / LAST, checkpoint)
    return tmp_path / "run"


def evaluated(run, **changes):
    options = {"units_infer": 5, "device": CPU, "root": None, "split": "val", "batch": 5, "out": run / "out"}
    return evaluate(run, **{**options, **changes}, console=Console(quiet=True))


def test_accuracy_and_scores_are_what_the_network_says(dataset, run):
    accuracy = evaluated(run)
    checkpoint = load_checkpoint(run / LAST)
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
    with pa.memory_map(str(run / "out" / "scores.arrow")) as source:
        table = pa.ipc.open_file(source).read_all()
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


@pytest.mark.parametrize("batch", [1, 7, 12])
def test_the_batch_does_not_change_the_accuracy(run, batch):
    assert evaluated(run, batch=batch) == evaluated(run)


def test_a_missing_checkpoint_is_named(tmp_path):
    with pytest.raises(DataError, match=r"there is no checkpoint .*last\.pt: train first"):
        evaluated(tmp_path)


@pytest.mark.parametrize("damage", [b"", b"no checkpoint", "half"])
def test_a_damaged_checkpoint_is_named(run, damage):
    content = (run / LAST).read_bytes()
    (run / LAST).write_bytes(content[: len(content) // 2] if damage == "half" else damage)
    with pytest.raises(DataError, match=r"last\.pt is damaged or no checkpoint"):
        evaluated(run)


def test_code_in_a_checkpoint_is_never_run(run, tmp_path):
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "touched"), "w"))

    torch.save({"model": Evil()}, run / LAST)
    with pytest.raises(DataError, match=r"last\.pt is damaged or no checkpoint"):
        evaluated(run)
    assert not (tmp_path / "touched").exists()


def test_a_dataset_that_is_gone_is_named(run):
    checkpoint = load_checkpoint(run / LAST)
    save_checkpoint(run / LAST, replace(checkpoint, dataset="/gone/shards/acts"))
    with pytest.raises(DataError, match=r"/gone/shards/acts, which .* is gone: name the dataset with --data"):
        evaluated(run)


def test_another_file_of_torch_is_named(run):
    torch.save({"state_dict": {}}, run / LAST)
    with pytest.raises(DataError, match=r"last\.pt is no checkpoint of this version"):
        evaluated(run)


def test_another_architecture_is_refused(run):
    checkpoint = load_checkpoint(run / LAST)
    wider = V4D(ModelConfig(base_width=8), 6)
    with pytest.raises(UsageError, match=r"another architecture: classifier.weight is \(6, 32\) there and \(6, 64\)"):
        load_weights(wider, checkpoint, run / LAST)


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
