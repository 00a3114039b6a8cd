"""What the tests of preprocessing share: an ffmpeg of their own, a run to interrupt, and datasets to damage."""

import os
import shutil
import tarfile
from functools import partial

import pytest

from preprocess import ffmpeg
from preprocess.datasets.folder import list_folder
from preprocess.ffmpeg import EncodeOptions
from preprocess.local import write_shards_locally
from preprocess.run import preprocess
from tests.preprocess.preprocess_command import Command, tree

LONG_CLASS = "漢" * 50


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


@pytest.fixture(scope="session")
def small(video, tmp_path_factory):
    """Eight videos of three classes and two that cannot be read, in five shards. Not to be changed."""

    root = tmp_path_factory.mktemp("videos")
    sources = {
        "a": ["h264.mp4", "vfr.mkv", "vfr.mp4", "broken.mp4"],
        "b": ["one_frame.mp4", "edit_list.mp4", "broken.mp4"],
        LONG_CLASS: ["one_frame.mp4", "vfr.mkv", "vfr.mp4"],
    }
    for name, files in sources.items():
        (root / name).mkdir()
        for source in files:
            content = b"no video" if source == "broken.mp4" else video(source).read_bytes()
            (root / name / source).write_bytes(content)
    data = tmp_path_factory.mktemp("shards") / "small"
    listing = list_folder(root, 0.4)
    preprocess(
        listing, data, EncodeOptions("48x32", quality=12), partial(write_shards_locally, workers=2), shard_size=2
    )
    return data


@pytest.fixture
def copy(small, tmp_path):
    """A copy of ``small``, to be damaged."""
    return shutil.copytree(small, tmp_path / "copy")


@pytest.fixture(scope="session")
def vp9(video, tmp_path_factory):
    """Two VP9 videos, of 120 frames and one, in one shard. Not to be changed."""
    root = tmp_path_factory.mktemp("videos")
    (root / "a").mkdir()
    for source in ("long.mp4", "one_frame.mp4"):
        (root / "a" / source).write_bytes(video(source).read_bytes())
    data = tmp_path_factory.mktemp("shards") / "vp9"
    executor = partial(write_shards_locally, workers=1)
    preprocess(list_folder(root, 0), data, EncodeOptions("64x48", codec="vp9"), executor)
    return data


def flip(path, at, bit=0):
    """Turn one bit of a file."""
    with open(path, "r+b") as file:
        byte = os.pread(file.fileno(), 1, at)[0]
        os.pwrite(file.fileno(), bytes([byte ^ 1 << bit]), at)


def keys_by_byte(tar):
    """For each member of a tar its first byte, header included, the byte after it, and its video's key or ""."""
    with tarfile.open(tar) as file:
        members = file.getmembers()
    ends = [member.offset for member in members[1:]] + [tar.stat().st_size]
    for member, end in zip(members, ends, strict=True):
        yield member.offset, end, "" if member.name.startswith("__v4d__/") else member.name.rpartition(".")[0]
