"""The house rules: imports go one way, and a file stays readable."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FOLDERS = ("benchmarks", "v4d", "pipelines", "preprocess")
# The schema and reader of the shards, how files are written, and what all commands share: what they say, the errors
# that end them, and what they take where nothing is named.
SHARED = (
    "preprocess.index",
    "preprocess.errors",
    "preprocess.durable_files",
    "preprocess.console",
    "preprocess.work_folder",
)
MAY_IMPORT = {
    "preprocess": ("preprocess",),
    # What ffmpeg makes of a file that lies in no dataset.
    "pipelines": ("pipelines", "preprocess.single_files", *SHARED),
    # How a clip is written as a video file, and which classes are others when mirrored.
    "v4d": ("v4d", "pipelines", "preprocess.clip_file", "preprocess.directions", *SHARED),
    # It measures the others, and only the command line knows it.
    "benchmarks": FOLDERS,
}
FOREIGN = {
    "preprocess": {"torch", "nvidia"},
    "pipelines": {"av", "ffmpeg"},
    "v4d": {"av", "ffmpeg", "nvidia"},
    "benchmarks": set(),
}
SOURCES = [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))] + [ROOT / "cli.py"]


def imported(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module


@pytest.mark.parametrize("path", SOURCES[:-1], ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_one_way(path):
    folder = path.relative_to(ROOT).parts[0]
    for module in imported(path):
        if module.split(".")[0] in (*FOLDERS, "cli"):
            allowed = MAY_IMPORT[folder]
            assert any(module == name or module.startswith(f"{name}.") for name in allowed), module
        assert module.split(".")[0] not in FOREIGN[folder], module


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_stay_readable(path):
    assert len(path.read_text().splitlines()) <= 400


@pytest.mark.parametrize("folder", ["preprocess", "v4d", "pipelines"])
def test_one_place_makes_what_is_printed_to(folder):
    """Or --quiet, colours and widths would be decided twice."""
    made = {
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in (ROOT / folder).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "Console"
        if path.name != "console.py"
    }
    assert not made


def test_torch_is_none_that_runs_code_of_the_files_it_reads():
    """torch.load(weights_only=True) did before 2.6 (CVE-2025-32434)."""
    said = (ROOT / "pyproject.toml").read_text()
    (least,) = re.findall(r'"torch>=([\d.]+)"', said)
    assert tuple(map(int, least.split("."))) >= (2, 6)
