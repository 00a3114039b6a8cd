"""``v4d import-weights`` and ``v4d export-weights``, and what each says to bad input."""

import json

import pytest
import torch
from click.testing import CliRunner

from cli import main
from tests.v4d.weights.plain_resnets import PlainResNet
from v4d.checkpoint import Checkpoint, save_checkpoint
from v4d.models.network import V4D
from v4d.weights.class_names import read_class_names
from v4d.weights.weights_file import load_pretrained, read_weights_info

NAMES = [f"class {i}" for i in range(7)]


def v4d(*arguments, code=0):
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exit_code == code, (result.output, result.exception)
    assert "Traceback" not in result.output
    return result.output


@pytest.fixture
def theirs(tmp_path):
    path = tmp_path / "slow.pyth"
    torch.save({"model_state": PlainResNet("pytorchvideo", 50).state}, path)
    return path


def test_a_network_is_imported(theirs, tmp_path):
    out, names = tmp_path / "slow.safetensors", tmp_path / "names.txt"
    names.write_text("\n".join(NAMES) + "\n")
    options = ["--from", "pytorchvideo", "--out", out, "--classes", names, "--strict"]
    lines = v4d("import-weights", theirs, *options, "--frames", "4").splitlines()
    key = "blocks.3.res_blocks.5.branch2.conv_a.weight"
    assert f"matched     {key} -> layers.res4_5.conv1.weight (32, 128, 3, 1, 1)" in lines
    assert lines[-2:] == [
        "320 matched, 0 missing, 0 unexpected",
        f"{out}: ResNet-50, 7 classes, for U=1 units of T=4 frames",
    ]
    info = read_weights_info(out)
    assert info.classes == tuple(NAMES) == load_pretrained(out).classes
    assert (info.data.units, info.data.frames, info.data.stride, info.data.test_crop) == (1, 4, 8, 256)
    assert info.model.mean == (114.75, 114.75, 114.75)
    assert (info.source, info.loss) == ("pytorchvideo: slow.pyth", "softmax")
    v4d("import-weights", theirs, *options, "--loss", "sigmoid")
    assert read_weights_info(out).loss == "sigmoid"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("names.json", json.dumps(NAMES)),
        ("names.json", json.dumps({f'"{name}"': i for i, name in reversed(list(enumerate(NAMES)))})),
        ("names.txt", "\n".join(NAMES)),
    ],
)
def test_names_of_classes(theirs, name, content, tmp_path):
    (tmp_path / name).write_text(content)
    out = tmp_path / "slow.safetensors"
    v4d("import-weights", theirs, "--from", "pytorchvideo", "--out", out, "--classes", tmp_path / name)
    assert read_weights_info(out).classes == tuple(NAMES)


@pytest.mark.parametrize(
    ("name", "content", "names"),
    [
        ("names.txt", ' say "no"\n"a b"\n\n', ('say "no"', '"a b"')),
        ("names.json", ['say "no"', '"a b"'], ('say "no"', '"a b"')),
        ("names.json", {'say "no"': 1, '"a b"': 0, '"say "no""': 2}, ("a b", 'say "no"', 'say "no"')),
    ],
)
def test_quotes_in_names_of_classes(name, content, names, tmp_path):
    """Around a name pytorchvideo has them, in its object of numbers; elsewhere they are the name's own."""
    (tmp_path / name).write_text(content if isinstance(content, str) else json.dumps(content))
    assert read_class_names(tmp_path / name) == names


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("names.json", '["a", "", "c"]', "names.json: class 1 has an empty name"),
        ("names.json", '["a", "b", " "]', "names.json: class 2 has an empty name"),
        ("names.json", '{"a": 1, "": 0}', "names.json: class 0 has an empty name"),
        ("names.json", '{"a": 1, "\\"\\"": 0}', "names.json: class 0 has an empty name"),
        ("names.txt", "a\n\nc\n", "names.txt: class 1 has an empty name"),
        ("names.txt", "a\nb\n", "tells 7 classes apart, and 2 are named"),
        ("names.txt", "\n", "names no class"),
        ("names.json", "{", "is no list of classes"),
        ("names.json", "3", "is no list of classes"),
        ("names.json", '{"a": 0, "b": 2}', "does not number its 2 classes from 0 to 1"),
        ("names.json", '{"a": 0, "b": "1"}', "does not number its 2 classes from 0 to 1"),
        ("names.txt", b"\xff\xfe", "is no list of classes"),
        ("names.txt", None, "there is no file of classes"),
    ],
)
def test_bad_names_of_classes(theirs, name, content, says, tmp_path):
    path, out = tmp_path / name, tmp_path / "slow.safetensors"
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    said = v4d("import-weights", theirs, "--from", "pytorchvideo", "--out", out, "--classes", path, code=1)
    assert says in said
    assert said.startswith("v4d: ")
    assert said.count("\n") == 1
    assert not out.exists()


def test_shapes_that_do_not_fit_end_it_with_both(theirs, tmp_path):
    state = torch.load(theirs)["model_state"]
    key = "blocks.2.res_blocks.1.branch2.norm_b.running_mean"
    torch.save({**state, key: torch.zeros(17)}, theirs)
    said = v4d("import-weights", theirs, "--from", "pytorchvideo", "--out", tmp_path / "x.safetensors", code=1)
    last = said.splitlines()[-1]
    assert last.endswith(f"{key} is (17,) there, and layers.res3_1.norm2.running_mean is (16,) here")
    assert not (tmp_path / "x.safetensors").exists()


def test_strict_is_for_missing_and_unexpected_keys(theirs, tmp_path):
    state, out = torch.load(theirs)["model_state"], tmp_path / "x.safetensors"
    del state["blocks.2.res_blocks.1.branch2.norm_b.weight"]
    state["blocks.6.weight"] = torch.zeros(3)
    torch.save(state, theirs)
    options = ["--from", "pytorchvideo", "--out", out]
    said = v4d("import-weights", theirs, *options, "--strict", code=1)
    assert "missing     layers.res3_1.norm2.weight\n" in said
    assert "unexpected  blocks.6.weight\n" in said
    assert said.splitlines()[-1].startswith(f"v4d: {theirs} lacks layers.res3_1.norm2.weight")
    assert not out.exists()
    assert "319 matched, 1 missing, 1 unexpected" in v4d("import-weights", theirs, *options)
    assert load_pretrained(out).num_classes == 7


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "there is no file"),
        (b"no weights", "theirs.pth"),
        ({"epoch": 3, "optimizer": {}}, "holds no state dict, which is tensors by name, but epoch, optimizer"),
        ({"a.weight": torch.zeros(3)}, "no key is named as in mmaction2, as a.weight is not"),
        (PlainResNet("v4d-released", 18).state, "no key is named as in mmaction2, but as in v4d-released"),
    ],
)
def test_a_file_that_is_none_of_theirs_gets_one_line(content, says, tmp_path):
    path, out = tmp_path / "theirs.pth", tmp_path / "x.safetensors"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        torch.save(content, path)
    said = v4d("import-weights", path, "--from", "mmaction2", "--out", out, code=1)
    assert says in said
    assert said.count("\n") == 1
    assert not out.exists()


def test_an_unknown_project(theirs, tmp_path):
    said = v4d("import-weights", theirs, "--from", "timm", "--out", tmp_path / "x", code=2)
    assert "'timm' is not one of 'torchvision', 'pytorchvideo', 'pyslowfast', 'mmaction2', 'v4d-released'" in said


def test_released_networks_are_of_four_units(tmp_path):
    path, out = tmp_path / "theirs.pth.tar", tmp_path / "x.safetensors"
    torch.save({"state_dict": PlainResNet("v4d-released", 50, every_4d=(2,)).state}, path)
    said = v4d("import-weights", path, "--from", "v4d-released", "--out", out, "--strict")
    assert "base_model.layer2.5.tsa.weight -> layers.res3_3_4d.conv.weight (64, 64, 3, 3, 1, 1)" in said
    info = read_weights_info(out)
    assert (info.data.units, info.model.blocks_4d, info.model.norm_4d) == (4, ("res3.1", "res3.3"), False)


def test_a_run_is_exported(recipe, tmp_path):
    torch.manual_seed(0)
    model = V4D(recipe.model, 3)
    checkpoint = Checkpoint(5, recipe, ("a", "b", "c"), "nowhere", "f", model.state_dict(), {}, {})
    save_checkpoint(tmp_path / "run", checkpoint)
    out = tmp_path / "ours.safetensors"
    assert "3 classes, after step 5 of" in v4d("export-weights", tmp_path / "run", "--out", out)
    loaded = load_pretrained(out)
    assert loaded.classes == ("a", "b", "c")
    assert all(torch.equal(value, loaded.state_dict()[name]) for name, value in model.state_dict().items())
    info = read_weights_info(out)
    assert (info.data, info.source) == (recipe.data, "recipe demo, step 5")
    said = v4d("export-weights", tmp_path / "nowhere", "--out", out, code=1)
    assert "there is no checkpoint" in said


@pytest.mark.parametrize("name", ["x.pt", "x.pth", "x", "x.safetensors.bak"])
@pytest.mark.parametrize(
    "command", [["import-weights", "theirs.pth", "--from", "mmaction2"], ["export-weights", "run"]]
)
def test_a_weights_file_is_named_as_one(command, name, tmp_path):
    said = v4d(*command, "--out", tmp_path / name, code=2)
    assert said == f"v4d: --out {tmp_path / name}: name a weights file as NAME.safetensors, by which it is known\n"


@pytest.mark.parametrize("command", ["import-weights", "export-weights"])
def test_the_commands_explain_themselves(command):
    assert f"Example: v4d {command}" in v4d(command, "--help")
