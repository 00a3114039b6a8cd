"""Weights files: the network comes back from the file alone, bit for bit, and no other file is taken for one."""

import io
import json
import pickle
import re
import struct
import zipfile
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from preprocess.errors import DataError
from preprocess.index import VERSION
from v4d.config import DataConfig, ModelConfig
from v4d.models.network import V4D
from v4d.trained import load_trained
from v4d.weights.torch_files import read_state_dict
from v4d.weights.weights_file import load_pretrained, read_weights_info, save_weights

CLASSES = ("walk", "跑", 'say "no"')
DATA = DataConfig(units=3, frames=2, stride=5, test_crop=48)


@pytest.fixture
def model():
    torch.manual_seed(1)
    config = ModelConfig(
        base_width=4, blocks_4d=("res3.0", "res5.1"), kernel_4d=(3, 1, 3, 3), mean=(1, 2, 3), dropout=0.4
    )
    model = V4D(config, 3)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm3d):
            torch.nn.init.normal_(module.running_mean)
            torch.nn.init.normal_(module.weight)
    return model


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last_3d])
def test_the_network_comes_back_from_the_file_alone(model, layout, tmp_path):
    path = tmp_path / "new" / "ours.safetensors"
    save_weights(path, model.to(memory_format=layout), CLASSES, DATA, "a test")
    loaded = load_pretrained(path)
    assert (loaded.classes, loaded.num_classes, loaded.config) == (CLASSES, 3, model.config)
    assert not loaded.training
    there, here = model.state_dict(), loaded.state_dict()
    assert there.keys() == here.keys()
    assert all(torch.equal(there[name], here[name]) for name in there)
    x = torch.randint(0, 256, (6, 3, 2, 32, 32), dtype=torch.uint8)
    torch.testing.assert_close(loaded(x, 3), model.eval()(x, 3))
    info = read_weights_info(path)
    assert (info.data, info.source, info.version) == (DATA, "a test", VERSION)
    assert [file.name for file in path.parent.iterdir()] == ["ours.safetensors"]
    (tmp_path / "another").touch()
    assert path.stat().st_mode == (tmp_path / "another").stat().st_mode


def test_the_file_is_what_the_documentation_says(model, tmp_path):
    path = tmp_path / "ours.safetensors"
    save_weights(path, model, CLASSES, DATA)
    with safe_open(path, framework="pt") as file:
        said = json.loads(file.metadata()["v4d"])
        assert set(file.keys()) == set(model.state_dict())
    assert set(said) == {"format", "version", "model", "num_classes", "classes", "data", "loss", "source"}
    assert said["classes"] == list(CLASSES)
    assert said["model"]["blocks_4d"] == ["res3.0", "res5.1"]
    assert (said["data"]["units"], said["data"]["frames"], said["data"]["stride"]) == (3, 2, 5)


def test_the_documentations_example_runs(tmp_path, monkeypatch, capsys):
    """As it stands there, with names of files as strings."""
    documentation = Path(__file__).parents[3] / "docs" / "weights.md"
    (example,) = re.findall(r"```python\n(.*?)```", documentation.read_text(), flags=re.DOTALL)
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(1)
    save_weights("fights.safetensors", V4D(ModelConfig(base_width=4), 3), CLASSES, DATA)
    exec(example, {"x": torch.randint(0, 256, (3, 3, 2, 32, 32), dtype=torch.uint8)})
    assert capsys.readouterr().out.strip() in CLASSES


def test_a_block_without_norm_comes_back(tmp_path):
    config = ModelConfig(base_width=4, norm_4d=False)
    model = V4D(config, 3)
    names = {name for name in model.state_dict() if "_4d" in name}
    assert names == {"layers.res3_1_4d.conv.weight", "layers.res4_1_4d.conv.weight"}
    assert all(not model.state_dict()[name].any() for name in names)
    save_weights(tmp_path / "ours.safetensors", model, (), DATA)
    loaded = load_pretrained(tmp_path / "ours.safetensors")
    assert loaded.config == config
    assert loaded.classes == ()


def test_a_fresh_block_without_norm_is_the_identity():
    torch.manual_seed(0)
    v4d = V4D(ModelConfig(base_width=4, norm_4d=False, dropout=0.0), 5)
    tsn = V4D(ModelConfig(base_width=4, blocks_4d=(), dropout=0.0), 5)
    tsn.load_state_dict({k: v for k, v in v4d.state_dict().items() if "_4d" not in k})
    x = torch.randint(0, 256, (8, 3, 2, 32, 32), dtype=torch.uint8)
    assert torch.equal(v4d(x, 4), tsn(x, 4))


def test_a_file_that_does_not_name_its_loss_is_of_one_class_a_video(model, tmp_path):
    path = tmp_path / "ours.safetensors"
    save_weights(path, model, CLASSES, DATA, loss="sigmoid")
    assert load_trained(path).recipe.train.loss == read_weights_info(path).loss == "sigmoid"
    with_header(path, lambda said: said.pop("loss"))
    assert load_trained(path).recipe.train.loss == "softmax"
    assert load_pretrained(path).classes == CLASSES


def test_names_that_are_too_few_are_refused_before_anything_is_written(model, tmp_path):
    with pytest.raises(DataError, match="2 names of classes for a network of 3"):
        save_weights(tmp_path / "ours.safetensors", model, ("a", "b"), DATA)
    assert not list(tmp_path.iterdir())


def with_header(path, change):
    """The weights file ``path`` with another "v4d" in its metadata."""
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    said = json.loads(header["__metadata__"]["v4d"])
    change(said)
    header["__metadata__"]["v4d"] = json.dumps(said)
    new = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(new)) + new + content[8 + length :])


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda path: path.unlink(), "there is no weights file"),
        (lambda path: (path.unlink(), path.mkdir()), "is a folder"),
        (lambda path: path.write_bytes(b""), "is damaged or no safetensors file"),
        (lambda path: path.write_bytes(path.read_bytes()[:-1]), "is damaged or no safetensors file"),
        (lambda path: path.write_bytes(path.read_bytes()[:100]), "is damaged or no safetensors file"),
        (lambda path: path.write_bytes(b"\xff" * 8 + path.read_bytes()[8:]), "is damaged or no safetensors file"),
        (lambda path: torch.save({"a": torch.zeros(3)}, path), "is damaged or no safetensors file"),
        (lambda path: save_file({"a": torch.zeros(3)}, path), "is a safetensors file of another program"),
        (lambda path: with_header(path, lambda said: said.update(format=2)), "of another version of v4d: format"),
        (lambda path: with_header(path, lambda said: said.update(new=2)), "of another version of v4d: new"),
        (lambda path: with_header(path, lambda said: said["classes"].pop()), "2 names for 3 classes"),
        (lambda path: with_header(path, lambda said: said["model"].update(depth=34)), "of v4d: model.depth"),
        (
            lambda path: with_header(path, lambda said: said["model"].update(base_width=8)),
            r"is not what its header says: classifier\.weight is \(3, 32\) there and \(3, 64\) in the network",
        ),
        (
            lambda path: with_header(path, lambda said: said["model"].update(blocks_4d=[])),
            r"layers\.res3_0_4d\.conv\.weight is \(.*\) there and no such weight in the network",
        ),
    ],
)
def test_another_file_is_refused_in_one_line(model, damage, says, tmp_path):
    path = tmp_path / "ours.safetensors"
    save_weights(path, model, CLASSES, DATA)
    damage(path)
    with pytest.raises(DataError, match=says) as error:
        load_pretrained(path)
    assert "\n" not in str(error.value)
    assert str(path) in str(error.value)


@pytest.mark.parametrize("num_classes", [10**13, 2**62, 10**30])
def test_a_header_that_lies_of_sizes_is_refused_in_one_line(num_classes, model, tmp_path):
    path = tmp_path / "ours.safetensors"
    save_weights(path, model, (), DATA)
    with_header(path, lambda said: said.update(num_classes=num_classes))
    with pytest.raises(DataError, match="is not what its header says") as error:
        load_pretrained(path)
    assert "\n" not in str(error.value)
    with_header(path, lambda said: (said.update(num_classes=3), said["model"].update(base_width=num_classes)))
    with pytest.raises(DataError, match="is not what its header says") as error:
        load_pretrained(path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("kind", ["conv4d", "nonlocal", "cgnl"])
def test_a_network_comes_back_without_a_draw(kind, tmp_path):
    path = tmp_path / "ours.safetensors"
    config = ModelConfig(base_width=8, block_4d=kind, mean=(1, 2, 3), std=(4, 5, 6))
    model = V4D(config, 3)
    save_weights(path, model, CLASSES, DATA)
    before = torch.get_rng_state()
    loaded = load_pretrained(path)
    assert torch.equal(torch.get_rng_state(), before)
    there = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    here = {**dict(loaded.named_parameters()), **dict(loaded.named_buffers())}
    assert there.keys() == here.keys()
    assert all(torch.equal(value, here[name]) for name, value in there.items())
    assert all(parameter.requires_grad for parameter in loaded.parameters())
    x = torch.randint(0, 256, (6, 3, 2, 32, 32), dtype=torch.uint8)
    torch.testing.assert_close(loaded(x, 3), model.eval()(x, 3))


class Hostile:
    """Unpickled, it makes a folder."""

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        import os

        return os.mkdir, (str(self.folder),)


@pytest.mark.parametrize(
    "save", [torch.save, lambda content, path: path.write_bytes(pickle.dumps(content, protocol=2))]
)
@pytest.mark.parametrize("name", ["theirs.pth", "theirs.safetensors"])
def test_no_code_of_a_file_is_run(save, name, tmp_path):
    path, made = tmp_path / name, tmp_path / "made"
    save({"state_dict": Hostile(made)}, path)
    with pytest.raises(DataError) as error:
        read_state_dict(path)
    assert "\n" not in str(error.value)
    assert not made.exists()


@pytest.mark.parametrize("module", [b"numpy._core.multiarray", b"numpy.core.multiarray"])
def test_numbers_of_numpy_beside_a_state_dict_are_passed_over(module, tmp_path):
    """As mmengine's checkpoints have them, from numpy 2 and from before."""
    path, unpickled = tmp_path / "theirs.pth", io.BytesIO()
    allowed = set(torch.serialization.get_safe_globals())
    numbers = [np.float64(0.5), np.int64(3), np.bool_(True), np.dtype("f4")]
    torch.save({"meta": {"best": numbers, "at": {np.int64(3): 1}}, "state_dict": {"a": torch.ones(2)}}, unpickled)
    with zipfile.ZipFile(unpickled) as there, zipfile.ZipFile(path, "w") as here:
        for name in there.namelist():
            here.writestr(name, there.read(name).replace(b"numpy._core.multiarray", module))
    with mock.patch.object(np, "dtype", side_effect=AssertionError("numpy was run")):
        assert torch.equal(read_state_dict(path)["a"], torch.ones(2))
    torch.save({"a": np.float64(0.5)}, path)
    with pytest.raises(DataError, match="holds no state dict"):
        read_state_dict(path)
    # Arrays are another thing, and nothing else of the program reads such numbers.
    torch.save({"state_dict": {"a": np.zeros(3)}}, path)
    with pytest.raises(DataError, match=r"wants numpy\..*_reconstruct run to be read"):
        read_state_dict(path)
    assert set(torch.serialization.get_safe_globals()) == allowed


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ({}, "holds no state dict, which is tensors by name, but nothing"),
        ({"state_dict": {}}, "holds no state dict"),
        ({"epoch": 3, "a": torch.zeros(3)}, "holds no state dict, which is tensors by name, but epoch, a"),
        ([torch.zeros(3)], "but a list"),
        (torch.zeros(3), "but a Tensor"),
        ({3: torch.zeros(3)}, "holds no state dict"),
    ],
)
def test_what_is_no_state_dict_is_refused(content, says, tmp_path):
    torch.save(content, tmp_path / "theirs.pth")
    with pytest.raises(DataError, match=says):
        read_state_dict(tmp_path / "theirs.pth")


def refused(path):
    with pytest.raises(DataError) as error:
        read_state_dict(path)
    assert "\n" not in str(error.value)
    assert str(path) in str(error.value)


@pytest.mark.parametrize("name", ["theirs.pth", "theirs.safetensors"])
def test_what_is_no_file_of_weights_is_refused(name, tmp_path):
    path = tmp_path / name
    refused(path)
    for content in (b"", b"PK\x03\x04 no zip", *(bytes([first]) + b"oot:x:0:0:root" for first in range(256))):
        path.write_bytes(content)
        refused(path)
    path.unlink()
    path.mkdir()
    refused(path)


def test_a_damaged_file_of_torch_is_refused_in_one_line_if_at_all(tmp_path):
    path = tmp_path / "theirs.pth"
    torch.save({"a.weight": torch.arange(6.0)}, path)
    content = path.read_bytes()
    read = 0
    for i in range(0, len(content), 7):
        path.write_bytes(content[:i] + bytes([content[i] ^ 0xFF]) + content[i + 1 :])
        try:
            read += bool(read_state_dict(path))
        except DataError as error:
            assert "\n" not in str(error)
    assert read < len(content) // 7
    for length in range(0, len(content), 50):
        path.write_bytes(content[:length])
        refused(path)
