"""Exported programs: the same scores in a process that knows nothing of v4d, and what a server has to know."""

import json
import subprocess
import sys

import numpy as np
import onnx
import pytest
import torch
from click.testing import CliRunner

from cli import main
from preprocess.errors import DataError, UsageError
from v4d import video_scores
from v4d.config import DataConfig, ModelConfig, Recipe, TrainConfig
from v4d.export import programs
from v4d.export.programs import DESCRIPTION, TOLERANCE, export_program
from v4d.export.served import ServedNetwork
from v4d.models.network import V4D
from v4d.trained import Trained
from v4d.weights.weights_file import save_weights

UNITS, FRAMES, CROP = 3, 2, 32
CLASSES = ('jump "high"', "läuft", "<b>", "x" * 300)
# Each in a process of its own, in which importing v4d is an error.
RUN_TORCH = """
import sys; sys.modules["v4d"] = None
import json, numpy, torch
said = {"v4d.json": ""}
program = torch.export.load(sys.argv[1], extra_files=said)
x = torch.from_numpy(numpy.load(sys.argv[2]))
numpy.save(sys.argv[3], program.module()(x).detach().numpy())
print(said["v4d.json"])
"""
RUN_ONNX = """
import sys; sys.modules["v4d"] = None
import numpy, onnxruntime
session = onnxruntime.InferenceSession(sys.argv[1])
numpy.save(sys.argv[3], session.run(["scores"], {"video": numpy.load(sys.argv[2])})[0])
print(session.get_modelmeta().custom_metadata_map["v4d.json"])
assert "torch" not in sys.modules
"""


def network(seed=0, **config):
    """Random, but with statistics and weights that tell videos apart."""
    torch.manual_seed(seed)
    model = V4D(ModelConfig(**{"base_width": 16, "norm_init_4d": 1.0, **config}), len(CLASSES))
    torch.nn.init.normal_(model.classifier.weight, std=1.0)
    for norm in model.modules():
        if isinstance(norm, torch.nn.BatchNorm3d):
            norm.running_mean.normal_(std=0.1)
            norm.running_var.uniform_(0.5, 1.5)
    model.train()
    with torch.no_grad():
        for _ in range(3):
            model(pixels(4).flatten(0, 1).permute(0, 4, 1, 2, 3), UNITS)
    model.eval()
    with torch.no_grad():
        # Around the mean of what it sees: else all videos are of one class.
        model.classifier.bias.sub_(model(pixels(8).flatten(0, 1).permute(0, 4, 1, 2, 3), UNITS).mean(dim=0))
    return model


def trained(model):
    data = DataConfig(units=UNITS, frames=FRAMES, test_crop=CROP)
    recipe = Recipe(name="small", data=data, model=model.config, train=TrainConfig())
    return Trained("small", model, CLASSES, recipe, {"weights": "small"})


def pixels(videos, units=UNITS, seed=1):
    draws = torch.Generator().manual_seed(seed)
    coarse = torch.randint(0, 256, (videos * units * FRAMES, 3, 4, 4), generator=draws).float()
    frames = torch.nn.functional.interpolate(coarse, size=(CROP, CROP)).to(torch.uint8)
    return frames.permute(0, 2, 3, 1).unflatten(0, (videos, units, FRAMES)).contiguous()


def in_a_fresh_process(code, path, x, tmp_path):
    """Scores, and the description, of a program run without v4d."""
    np.save(tmp_path / "x.npy", x.numpy())
    command = [sys.executable, "-c", code, str(path), str(tmp_path / "x.npy"), str(tmp_path / "scores.npy")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    return np.load(tmp_path / "scores.npy"), json.loads(done.stdout)


@pytest.mark.parametrize(
    ("kind", "name", "code", "units_infer"),
    [
        ("torch", "small.pt2", RUN_TORCH, UNITS),
        ("torch", "small.pt2", RUN_TORCH, UNITS + 2),
        ("onnx", "small.onnx", RUN_ONNX, UNITS + 2),
    ],
)
def test_a_program_runs_without_v4d(kind, name, code, units_infer, tmp_path):
    model = network()
    path = tmp_path / name
    assert export_program(trained(model), path, kind=kind, units_infer=units_infer) <= TOLERANCE
    # More videos than the program was traced or compared with.
    x = pixels(5, units_infer)
    scores, said = in_a_fresh_process(code, path, x, tmp_path)
    expected = video_scores(model, x.flatten(0, 1).permute(0, 4, 1, 2, 3), units_infer, UNITS).numpy()
    assert expected.std(axis=0).max() > 0.01
    np.testing.assert_allclose(scores, expected, atol=1e-5)
    assert said["classes"] == list(CLASSES)
    assert said["input"]["shape"] == ["batch", units_infer, FRAMES, CROP, CROP, 3]
    assert said["output"] == {"name": "scores", "type": "float32", "shape": ["batch", 4], "scores": "softmax"}
    assert (said["sampling"]["units"], said["sampling"]["stride"]) == (units_infer, 8)
    assert said["normalisation"]["inside"] is True


BLOCKS = {
    "no blocks": {"blocks_4d": ()},
    "3x3x3x3": {"kernel_4d": (3, 3, 3, 3)},
    "1x3x3x3": {"kernel_4d": (1, 3, 3, 3)},
    "released": {"norm_4d": False},
    "non-local": {"block_4d": "nonlocal"},
    "generalized non-local": {"block_4d": "cgnl"},
    "ResNet-50": {"depth": 50, "base_width": 8},
}


@pytest.mark.parametrize("config", BLOCKS.values(), ids=BLOCKS)
def test_networks_of_every_kind_export_in_standard_operations(config, tmp_path):
    """torch.export's operators are what ONNX and other runtimes know; a kernel of our own would be one of v4d's."""
    model = network(**config)
    path = tmp_path / "small.pt2"
    export_program(trained(model), path, kind="torch", activation="logits")
    program = torch.export.load(path)
    operators = {node.target for node in program.graph.nodes if node.op == "call_function"}
    assert operators
    assert {operator.namespace for operator in operators if hasattr(operator, "namespace")} == {"aten"}
    assert all(hasattr(operator, "namespace") or operator.__module__ == "_operator" for operator in operators)
    x = pixels(4)
    with torch.no_grad():
        expected = model(x.flatten(0, 1).permute(0, 4, 1, 2, 3), UNITS)
        torch.testing.assert_close(program.module()(x), expected, atol=1e-4, rtol=1e-4)
    assert expected.std(dim=0).max() > 0.01


@pytest.mark.parametrize("config", [BLOCKS["3x3x3x3"], BLOCKS["generalized non-local"]])
def test_onnx_of_other_blocks(config, tmp_path):
    model = network(**config)
    export_program(trained(model), tmp_path / "small.onnx", kind="onnx", activation="logits")
    written = onnx.load(tmp_path / "small.onnx")
    onnx.checker.check_model(written)
    assert {node.domain for node in written.graph.node} <= {"", "ai.onnx"}
    (first,) = written.graph.input
    assert first.name == "video"
    assert first.type.tensor_type.shape.dim[0].dim_param == "batch"
    assert DESCRIPTION in {entry.key for entry in written.metadata_props}


@pytest.mark.parametrize("activation", ["softmax", "sigmoid", "logits"])
def test_algorithm_1_is_that_of_eval(activation):
    model = network()
    x = pixels(2, 6)
    with torch.no_grad():
        scores = ServedNetwork(trained(model), 6, activation)(x)
    expected = video_scores(model, x.flatten(0, 1).permute(0, 4, 1, 2, 3), 6, UNITS, activation=activation)
    torch.testing.assert_close(scores, expected, atol=1e-5, rtol=1e-4)


def test_a_program_that_differs_is_not_written(tmp_path, monkeypatch):
    """Here by a network that changes between the trace and the comparison."""

    class Drifting(ServedNetwork):
        def forward(self, x):
            scores = super().forward(x)
            return scores if torch.compiler.is_compiling() else scores + 0.01

    monkeypatch.setattr(programs, "ServedNetwork", Drifting)
    for kind, name in (("torch", "small.pt2"), ("onnx", "small.onnx")):
        with pytest.raises(DataError, match=r"is not written: its scores differ from the network's by up to 0.01"):
            export_program(trained(network()), tmp_path / name, kind=kind)
    assert list(tmp_path.iterdir()) == []


def test_units_that_cannot_be(tmp_path):
    with pytest.raises(UsageError, match="below the 3 units"):
        export_program(trained(network()), tmp_path / "small.pt2", kind="torch", units_infer=2)
    with pytest.raises(UsageError, match=r"makes 1,000 combinations, more than the 128"):
        export_program(trained(network()), tmp_path / "small.pt2", kind="torch", units_infer=30)
    assert list(tmp_path.iterdir()) == []


def v4d(*arguments, code=0):
    result = CliRunner().invoke(main, [str(one) for one in arguments])
    assert result.exit_code == code, (result.output, result.exception)
    return result.output


def test_the_command(tmp_path):
    weights, out = tmp_path / "small.safetensors", tmp_path / "small.pt2"
    save_weights(weights, network(), CLASSES, DataConfig(units=UNITS, frames=FRAMES, test_crop=CROP))
    said = v4d("export", weights, "--out", out, "--scores", "logits")
    assert f"{out}: torch program of {weights}, 3 units of 2 frames of 32 pixels" in said
    files = {DESCRIPTION: ""}
    torch.export.load(out, extra_files=files)
    assert json.loads(files[DESCRIPTION])["output"]["scores"] == "logits"
    assert "name a program as NAME.pt2" in v4d("export", weights, "--out", tmp_path / "small.bin", code=2)
    assert "name a program as" in v4d("export", weights, "--out", out, "--format", "onnx", code=2)
    assert "there is no" in v4d("export", tmp_path / "none.safetensors", "--out", out, code=1)


def test_onnx_without_its_packages(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(UsageError, match=r"needs the package onnxscript: pip install onnx onnxscript onnxruntime"):
        export_program(trained(network()), tmp_path / "small.onnx", kind="onnx")
