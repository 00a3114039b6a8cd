"""Checkpoints: what is written is the moment they were asked for, and which one a path names."""

import errno
from dataclasses import replace

import pytest
import torch

from preprocess.errors import DataError
from v4d.checkpoint import WEIGHTS, Checkpoint, checkpoints_in, find_checkpoint, load_checkpoint, save_checkpoint
from v4d.checkpoint_writer import CheckpointWriter
from v4d.models.network import V4D
from v4d.weights.weights_file import load_pretrained


@pytest.fixture
def checkpoint(recipe):
    torch.manual_seed(0)
    model = V4D(recipe.model, 2)
    momentum = {"state": {0: {"momentum_buffer": torch.rand(1 << 22)}}}
    extras = {"scale": 2.0, "trained": {"x": torch.rand(1 << 22)}}
    return Checkpoint(5, recipe, ("a", "b"), "nowhere", "f", dict(model.state_dict()), momentum, {"step": 1}, extras)


def test_training_may_go_on_while_it_is_written(checkpoint, tmp_path):
    weight, momentum = checkpoint.model["classifier.weight"], checkpoint.optimizer["state"][0]["momentum_buffer"]
    extra, was = checkpoint.extras["trained"]["x"], checkpoint.on_cpu()
    with CheckpointWriter(tmp_path, 0) as writer:
        writer.write(checkpoint)
        for tensor in (weight, momentum, extra):
            tensor.zero_()
        checkpoint.loader["step"] = 2
        assert writer.wait() is None
    read = load_checkpoint(tmp_path)
    assert torch.equal(read.model["classifier.weight"], was.model["classifier.weight"])
    assert torch.equal(read.optimizer["state"][0]["momentum_buffer"], was.optimizer["state"][0]["momentum_buffer"])
    assert torch.equal(read.extras["trained"]["x"], was.extras["trained"]["x"])
    assert (read.loader, read.extras["scale"], read.versions) == ({"step": 1}, 2.0, checkpoint.versions)
    assert was.model["classifier.weight"].any()


def test_its_weights_are_a_weights_file(checkpoint, tmp_path):
    save_checkpoint(tmp_path, checkpoint)
    model = load_pretrained(find_checkpoint(tmp_path) / WEIGHTS)
    assert model.classes == ("a", "b")
    assert all(torch.equal(value, checkpoint.model[name]) for name, value in model.state_dict().items())


def test_without_its_weights_it_is_damaged(checkpoint, tmp_path):
    save_checkpoint(tmp_path, checkpoint)
    (find_checkpoint(tmp_path) / WEIGHTS).unlink()
    with pytest.raises(DataError, match=r"there is no weights file .*step-00000005/weights.safetensors"):
        load_checkpoint(tmp_path)


def test_the_last_has_the_most_steps_and_the_best_the_best_score(checkpoint, tmp_path):
    for step in (5, 100000000, 99999999):
        save_checkpoint(tmp_path, replace(checkpoint, step=step))
    assert list(checkpoints_in(tmp_path)) == [5, 99999999, 100000000]
    assert find_checkpoint(tmp_path).name == find_checkpoint(tmp_path / "last").name == "step-100000000"
    with pytest.raises(DataError, match="no checkpoint of a best validation"):
        find_checkpoint(tmp_path / "best")
    scores = [(4, 0.5), (9, 0.25), (99999998, 0.5), (99999999, 0.1)]
    (tmp_path / "log.jsonl").write_text("".join(f'{{"step": {step}, "val_top1": {top1}}}\n' for step, top1 in scores))
    # The first of two that are as good.
    assert find_checkpoint(tmp_path / "best").name == "step-00000005"
    assert load_checkpoint(tmp_path / "best").step == 5


def test_the_best_and_each_so_many_stay(checkpoint, tmp_path):
    (tmp_path / "log.jsonl").write_text('{"step": 3, "val_top1": 0.5}\n{"step": 7, "val_top1": 0.25}\n')
    with CheckpointWriter(tmp_path, 5) as writer:
        for step in range(1, 13):
            writer.write(replace(checkpoint, step=step))
        assert writer.wait() is None
    assert list(checkpoints_in(tmp_path)) == [4, 5, 10, 12]


def test_the_best_that_is_there_stays_where_a_better_one_could_not_be_written(checkpoint, tmp_path):
    (tmp_path / "log.jsonl").write_text('{"step": 3, "val_top1": 0.5}\n{"step": 7, "val_top1": 0.75}\n')
    with CheckpointWriter(tmp_path, 0) as writer:
        for step in (4, 6, 12):
            writer.write(replace(checkpoint, step=step))
        assert writer.wait() is None
    assert list(checkpoints_in(tmp_path)) == [4, 12]
    assert find_checkpoint(tmp_path / "best").name == "step-00000004"


def test_an_old_one_that_cannot_be_removed_is_no_failed_checkpoint(checkpoint, tmp_path, monkeypatch, caplog):
    def refused(folder):
        raise OSError(errno.ENOTEMPTY, "Directory not empty")

    monkeypatch.setattr("v4d.checkpoint.remove_folder", refused)
    with CheckpointWriter(tmp_path, 0) as writer:
        for step in (1, 2):
            writer.write(replace(checkpoint, step=step))
            assert writer.wait() is None
    assert list(checkpoints_in(tmp_path)) == [1, 2]
    assert [record.getMessage() for record in caplog.records] == [
        f"{tmp_path}: an old checkpoint stays: Directory not empty"
    ]
