"""Exported programs: the same scores in a process that knows nothing of v4d, and what a server has to know."""

import json
import subprocess
import sys
from functools import cache

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
from v4d.export.served import ServedNetwork, description
from v4d.models.network import V4D
from v4d.trained import Trained
from v4d.weights.weights_file import save_weights

UNITS, FRAMES, CROP = 3, 2, 32
CLASSES = ('jump "high"', "läuft", "<b>", "x" * 300)
# Each in a process of its own, in which importing v4d is an error.
RUN_TORCH = """
import sys; sys.modules["v4d"] = None
import json, numpy, torch
for path, pixels, scores in zip(*[iter(sys.argv[1:])] * 3):
    said = {"v4d.json": ""}
    program = torch.export.load(path, extra_files=said)
    numpy.save(scores, program.module()(torch.from_numpy(numpy.load(pixels))).detach().numpy())
    print(said["v4d.json"])
"""
RUN_ONNX = """
import sys; sys.modules["v4d"] = None
import numpy, onnxruntime
for path, pixels, scores in zip(*[iter(sys.argv[1:])] * 3):
    session = onnxruntime.InferenceSession(path)
    numpy.save(scores, session.run(["scores"], {"video": numpy.load(pixels)})[0])
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


def in_a_fresh_process(code, jobs, tmp_path):
    """Scores, and the description, of programs run without v4d: each (path, pixels) of ``jobs``, in one process."""
    words = []
    for number, (path, x) in enumerate(jobs):
        np.save(tmp_path / f"x{number}.npy", x.numpy())
        words += [str(path), str(tmp_path / f"x{number}.npy"), str(tmp_path / f"scores{number}.npy")]
    command = [sys.executable, "-c", code, *words]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    scores = [np.load(tmp_path / f"scores{number}.npy") for number in range(len(jobs))]
    return list(zip(scores, map(json.loads, done.stdout.splitlines()), strict=True))


BLOCKS = {
    "no blocks": {"blocks_4d": ()},
    "3x3x3x3": {"kernel_4d": (3, 3, 3, 3)},
    "1x3x3x3": {"kernel_4d": (1, 3, 3, 3)},
    "released": {"norm_4d": False},
    "non-local": {"block_4d": "nonlocal"},
    "generalized non-local": {"block_4d": "cgnl"},
    "ResNet-50": {"depth": 50, "base_width": 8},
}


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A function: the torch program of a network of ``BLOCKS`` for as many units as in training, made once."""
    folder = tmp_path_factory.mktemp("programs")

    @cache
    def make(blocks):
        path = folder / f"{blocks}.pt2"
        assert export_program(trained(network(**BLOCKS[blocks])), path, kind="torch") <= TOLERANCE
        return path

    return make


@pytest.mark.parametrize("kind", ["torch", "onnx"])
def test_programs_run_without_v4d(kind, exported, tmp_path):
    model = network(**BLOCKS["3x3x3x3"])
    more = tmp_path / {"torch": "more.pt2", "onnx": "more.onnx"}[kind]
    assert export_program(trained(model), more, kind=kind, units_infer=UNITS + 2) <= TOLERANCE
    programs = [(more, UNITS + 2), *([(exported("3x3x3x3"), UNITS)] if kind == "torch" else [])]
    # More videos than the program was traced or compared with.
    jobs = [(path, pixels(5, units)) for path, units in programs]
    found = in_a_fresh_process({"torch": RUN_TORCH, "onnx": RUN_ONNX}[kind], jobs, tmp_path)
    for (_, x), (_, units), (scores, said) in zip(jobs, programs, found, strict=True):
        expected = video_scores(model, x.flatten(0, 1).permute(0, 4, 1, 2, 3), units, UNITS).numpy()
        assert expected.std(axis=0).max() > 0.01
        np.testing.assert_allclose(scores, expected, atol=1e-5)
        assert said["classes"] == list(CLASSES)
        assert said["input"]["shape"] == ["batch", units, FRAMES, CROP, CROP, 3]
        assert said["output"] == {"name": "scores", "type": "float32", "shape": ["batch", 4], "scores": "softmax"}
        assert (said["sampling"]["units"], said["sampling"]["stride"]) == (units, 8)
        assert said["normalisation"]["inside"] is True
    if kind == "onnx":
        see_that_operations_are_standard(more)


@pytest.mark.parametrize("blocks", BLOCKS)
def test_networks_of_every_kind_export_in_standard_operations(blocks, exported):
    """torch.export's operators are what ONNX and other runtimes know; a kernel of our own would be one of v4d's."""
    program = torch.export.load(exported(blocks))
    operators = {node.target for node in program.graph.nodes if node.op == "call_function"}
    assert operators
    assert {operator.namespace for operator in operators if hasattr(operator, "namespace")} == {"aten"}
    assert all(hasattr(operator, "namespace") or operator.__module__ == "_operator" for operator in operators)
    x = pixels(4)
    with torch.no_grad():
        expected = network(**BLOCKS[blocks])(x.flatten(0, 1).permute(0, 4, 1, 2, 3), UNITS).softmax(dim=1)
        torch.testing.assert_close(program.module()(x), expected, atol=1e-5, rtol=0)
    assert expected.std(dim=0).max() > 0.01


def test_onnx_of_another_block(tmp_path):
    path = tmp_path / "small.onnx"
    export_program(trained(network(**BLOCKS["generalized non-local"])), path, kind="onnx", activation="logits")
    see_that_operations_are_standard(path)


def see_that_operations_are_standard(path):
    written = onnx.load(path)
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
    """Here by a network that changes between the trace and the comparison; a small one is enough."""

    class Drifting(ServedNetwork):
        def forward(self, x):
            scores = x.flatten(1)[:, : len(CLASSES)].float()
            return scores if torch.compiler.is_compiling() else scores + 0.5

    monkeypatch.setattr(programs, "ServedNetwork", Drifting)
    for kind, name in (("torch", "small.pt2"), ("onnx", "small.onnx")):
        with pytest.raises(DataError, match=r"is not written: its scores differ from the network's by up to 0.5"):
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


def test_the_command(dataset, tmp_path):
    weights, out = tmp_path / "small.safetensors", tmp_path / "small.pt2"
    data = DataConfig(units=UNITS, frames=FRAMES, test_crop=CROP)
    save_weights(weights, network(), CLASSES, data, loss="sigmoid")
    files = {DESCRIPTION: ""}
    v4d("export", weights, "--out", out)
    torch.export.load(out, extra_files=files)
    assert json.loads(files[DESCRIPTION])["output"]["scores"] == "sigmoid"
    said = v4d("export", weights, "--out", out, "--scores", "logits", "--data", dataset.root)
    assert f"{out}: torch program of {weights}, 3 units of 2 frames of 32 pixels" in said
    files = {DESCRIPTION: ""}
    torch.export.load(out, extra_files=files)
    about = json.loads(files[DESCRIPTION])
    assert about["output"]["scores"] == "logits"
    assert (about["frames"]["resize"], about["frames"]["fps"]) == ("60x48", None)
    assert description(trained(network()), UNITS, "softmax")["frames"] is None
    assert "name a program as NAME.pt2" in v4d("export", weights, "--out", tmp_path / "small.bin", code=2)
    assert "name a program as" in v4d("export", weights, "--out", out, "--format", "onnx", code=2)
    assert "there is no" in v4d("export", tmp_path / "none.safetensors", "--out", out, code=1)


def test_onnx_without_its_packages(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(UsageError, match=r"needs the package onnxscript: pip install onnx onnxscript onnxruntime"):
        export_program(trained(network()), tmp_path / "small.onnx", kind="onnx")
