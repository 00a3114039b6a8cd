"""docs/api.md names what is public, all of it and nothing else, and its code runs as one program."""

import re
import shutil
from pathlib import Path

import pytest

import pipelines
import preprocess
import v4d

PAGE = Path(__file__).parent.parent / "docs" / "api.md"
PACKAGES = {"v4d": v4d, "pipelines": pipelines, "preprocess": preprocess}


def documented():
    """The names in the first cells of the tables."""
    return re.findall(r"^\| `(\w+\.\w+)` \| \S", PAGE.read_text(), re.MULTILINE)


def test_it_names_what_is_public():
    public = {f"{package}.{name}" for package, module in PACKAGES.items() for name in module.__all__}
    assert len(documented()) == len(set(documented()))
    assert set(documented()) == public


@pytest.mark.parametrize("package", PACKAGES)
def test_all_that_is_public_is_there_and_explains_itself(package):
    module = PACKAGES[package]
    for name in module.__all__:
        value = getattr(module, name)
        assert not callable(value) or value.__doc__, name


def test_its_code_runs(small, tmp_path, monkeypatch, capsys):
    shutil.copytree(small, tmp_path / "shards" / "acts")
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    assert len(blocks) == 5
    names = {}
    for code in blocks:
        exec(compile(code, str(PAGE), "exec"), names)
    assert names["batch"].x.shape == (16, 3, 4, 64, 64)
    assert names["logits_BK"].shape == (4, 3)
    assert names["scores_BK"].shape == (2, 3)
    assert names["trained"].classes == names["dataset"].classes
    assert "torch.Size([2, 8])" in capsys.readouterr().out
