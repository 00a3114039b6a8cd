"""The example of training by the Python API alone: it is short, it learns, and it names what is public."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import v4d
from examples.train_on_shards import accuracy, train

EXAMPLE = Path(__file__).parents[2] / "examples" / "train_on_shards.py"


def test_it_is_notebook_sized_and_imports_what_is_public():
    assert len(EXAMPLE.read_text().splitlines()) <= 80
    for node in ast.walk(ast.parse(EXAMPLE.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module in ("pipelines", "preprocess", "v4d"):
            public = set(sys.modules[node.module].__all__)
            assert {alias.name for alias in node.names} <= public
        elif isinstance(node, ast.ImportFrom | ast.Import):
            named = [node.module] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
            assert not any(name.startswith(("pipelines.", "preprocess.", "v4d.", "cli")) for name in named)


@pytest.fixture
def model():
    torch.manual_seed(0)
    return v4d.create_model("v4d_resnet18", 2, base_width=4, dropout=0.0)


def test_it_learns_and_the_trained_network_is_tested(colours, model):
    before = accuracy(colours, model, batch=2, crop=32)
    losses = list(train(colours, model, steps=15, batch=4, crop=32, lr=0.02))
    assert len(losses) == 15
    assert sum(losses[-3:]) < 0.8 * sum(losses[:3])
    # Untrained it says the same of all.
    assert before == (2, 4)
    assert accuracy(colours, model, batch=2, crop=32) == (4, 4)


def test_the_command(colours):
    line = [sys.executable, EXAMPLE, colours.root, "--steps", "2", "--batch", "2", "--width", "4", "--crop", "32"]
    done = subprocess.run(line, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    said = done.stdout.splitlines()
    assert [row.split(":")[0] for row in said[:2]] == ["step 1", "step 2"]
    assert said[2].endswith("of 4 videos of val are told right")
