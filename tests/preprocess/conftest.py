"""What the tests of preprocessing share."""

import pytest

from preprocess import ffmpeg


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
