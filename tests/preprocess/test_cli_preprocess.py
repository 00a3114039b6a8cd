"""``v4d preprocess folder`` as a person meets it: exit code 0, 1 for data, 2 for usage, and one line that says why."""

import json
import os
import subprocess
import sys

import pytest

from preprocess.index import read_dataset


def v4d(*arguments, cwd, **environment):
    command = [sys.executable, "-m", "cli", "preprocess", "folder", *map(str, arguments)]
    return subprocess.run(
        command, cwd=cwd, env={**os.environ, **environment}, capture_output=True, text=True, timeout=120
    )


@pytest.fixture
def videos(video, tmp_path):
    root = tmp_path / "data" / "waves" / "videos"
    for name in ("a", "b c"):
        (root / name).mkdir(parents=True)
        for i in range(2):
            (root / name / f"{i}.mp4").write_bytes(video("h264.mp4").read_bytes())
    return root


def assert_one_line(run, code, *parts):
    assert run.returncode == code, run
    assert run.stderr.count("\n") == 1, run
    assert all(part in run.stderr for part in parts), run
    assert run.stderr.startswith("v4d: ")


def test_names_are_found_where_nothing_is_named(videos, tmp_path):
    (videos / "b c" / "text.mp4").write_text("no video")
    (videos / "none").mkdir()
    run = v4d("--resize", "64x48", cwd=tmp_path)
    assert (run.returncode, run.stderr) == (0, "")
    assert run.stdout.splitlines()[0] == "videos data/waves/videos, dataset shards/waves"
    assert "note: class 'none' holds no file" in run.stdout
    assert "rejected 1: not readable as a video" in run.stdout
    dataset = read_dataset(tmp_path / "shards" / "waves")
    assert dataset.classes == ("a", "b c", "none")
    assert {split: len(dataset.split(split)) for split in dataset.splits} == {"train": 2, "val": 2}

    again = v4d("--resize", "64x48", cwd=tmp_path)
    assert (again.returncode, again.stdout.splitlines()[-1].endswith("(already complete)")) == (0, True)
    assert_one_line(v4d("--resize", "80x48", cwd=tmp_path), 1, "resize 64x48 then, 80x48 now", "choose another --out")


def test_awkward_names(videos, tmp_path):
    names = ["-dash", "'\"`$(x)`", "%03d", "new\nline", "漢字 ü", os.fsdecode(b"\xff\xe9")]
    for name in names:
        (videos / name).mkdir()
        (videos / name / f"{name}.mp4").write_bytes((videos / "a" / "0.mp4").read_bytes())
    run = v4d("--resize", "64x48", "--val-fraction", 0, cwd=tmp_path)
    assert (run.returncode, run.stderr) == (0, "")
    dataset = read_dataset(tmp_path / "shards" / "waves")
    assert {row.label: row.frames for row in dataset.split("train")} == dict.fromkeys(range(8), 30)
    assert (tmp_path / "shards" / "waves" / "rejected.jsonl").read_text() == ""


def test_what_is_no_file_is_rejected(videos, tmp_path):
    os.mkfifo(videos / "a" / "fifo.mp4")
    (videos / "a" / "dangling.mp4").symlink_to("nowhere")
    (videos / "a" / "list.mp4").write_text("ffconcat version 1.0\nfile 0.mp4\n")
    run = v4d("--resize", "64x48", cwd=tmp_path)
    assert (run.returncode, run.stderr) == (0, "")
    rejected = (tmp_path / "shards" / "waves" / "rejected.jsonl").read_text().splitlines()
    assert {row["source"]: row["reason"] for row in map(json.loads, rejected)} == {
        "a/fifo.mp4": "no regular file",
        "a/dangling.mp4": "cannot be opened: No such file or directory",
        "a/list.mp4": "not readable as a video",
    }


def test_no_folder_of_videos(tmp_path):
    (tmp_path / "empty").mkdir()
    assert_one_line(v4d(cwd=tmp_path), 2, "there is no folder of videos at data/NAME/videos", "--videos")
    assert_one_line(v4d("--videos", "nowhere", cwd=tmp_path), 1, "nowhere is missing")
    assert_one_line(v4d("--videos", "empty", cwd=tmp_path), 1, "empty holds no videos")
    assert not (tmp_path / "shards").exists()


@pytest.mark.parametrize(
    ("program", "message"),
    [("/nowhere/ffmpeg", "V4D_FFMPEG names /nowhere/ffmpeg"), ("true", "is no ffmpeg: set V4D_FFMPEG to one")],
)
def test_no_ffmpeg(videos, tmp_path, program, message):
    assert_one_line(v4d(cwd=tmp_path, V4D_FFMPEG=program), 2, message)
    assert not (tmp_path / "shards").exists()


def test_ffmpeg_that_is_too_old(videos, tmp_path):
    old = tmp_path / "ffmpeg"
    old.write_text('#!/bin/sh\necho ffmpeg version 4.4\n[ "$1" = -version ] || echo "Option not found" >&2\n')
    old.chmod(0o755)
    assert_one_line(v4d(cwd=tmp_path, V4D_FFMPEG=str(old)), 2, "4.4 is too old, 5.1 is needed")
    assert not (tmp_path / "shards").exists()


def test_output_among_the_videos(videos, tmp_path):
    assert_one_line(v4d("--out", videos / "shards", cwd=tmp_path), 2, "where it would count as videos")
    assert sorted(path.name for path in videos.iterdir()) == ["a", "b c"]


def test_output_cannot_be_written(videos, tmp_path):
    (tmp_path / "file").write_text("")
    assert_one_line(v4d("--out", "file", cwd=tmp_path), 1, "Not a directory")
    assert_one_line(v4d("--out", "file/data", cwd=tmp_path), 1, "Not a directory")


@pytest.mark.parametrize("arguments", [("--resize", "64"), ("--val-fraction", "1"), ("--quality", "1"), ("--what",)])
def test_usage(videos, tmp_path, arguments):
    run = v4d(*arguments, cwd=tmp_path)
    assert run.returncode == 2
    assert "Traceback" not in run.stderr
    assert not (tmp_path / "shards").exists()
