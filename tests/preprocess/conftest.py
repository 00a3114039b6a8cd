"""What the tests of preprocessing share: an ffmpeg of their own, a run to interrupt, a dataset to damage."""

import shutil

import pytest

from preprocess import ffmpeg, layer_check
from tests.preprocess.preprocess_command import Command, tree
from tests.preprocess.work import Work


@pytest.fixture
def program(tmp_path, monkeypatch):
    """A function: makes a shell script the ffmpeg to run."""

    def make(script):
        path = tmp_path / "ffmpeg"
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
        monkeypatch.setenv("V4D_FFMPEG", str(path))
        forget_ffmpeg()

    yield make
    monkeypatch.undo()
    forget_ffmpeg()


def forget_ffmpeg():
    ffmpeg.executable.cache_clear()
    ffmpeg.version.cache_clear()
    layer_check.see_that_layers_are_kept.cache_clear()


@pytest.fixture(scope="session")
def ten_videos(video, tmp_path_factory):
    """Two classes of five videos, of which one breaks off."""
    root = tmp_path_factory.mktemp("videos")
    for name in ("a", "b"):
        (root / name).mkdir()
        for i in range(4):
            (root / name / f"{i}.mp4").write_bytes(video("h264.mp4").read_bytes())
        (root / name / "damaged.mp4").write_bytes(video("h264.mp4").read_bytes()[:-400])
    return root


@pytest.fixture(scope="session")
def uninterrupted(ten_videos, tmp_path_factory):
    """Names and sha256 of the files that an uninterrupted run makes of ``ten_videos``."""
    data = tmp_path_factory.mktemp("data")
    assert Command(ten_videos, data, workers=1).end() == (0, "")
    return tree(data)


@pytest.fixture
def copy(small, tmp_path):
    """A copy of ``small``, to be damaged."""
    return shutil.copytree(small, tmp_path / "copy")


@pytest.fixture
def work(tmp_path, monkeypatch, video):
    """An empty work folder, which is the current one."""
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return Work(folder, video)
