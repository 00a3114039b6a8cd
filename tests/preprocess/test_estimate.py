"""The estimate of a dry run, held against what a real run then makes."""

import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

from preprocess.datasets.folder import list_folder
from preprocess.estimate import Estimate, estimate
from preprocess.ffmpeg import EncodeOptions, executable
from preprocess.local import write_shards_locally
from preprocess.records import Listing, VideoRecord
from preprocess.run import preprocess

OPTIONS = EncodeOptions("64x48")


def records_of(path, count, missing=0):
    found = [VideoRecord(f"f{i}", path, (0,), ("train", "val")[i % 4 == 3]) for i in range(count)]
    return found + [VideoRecord(f"m{i}", path, (0,), "val", problem=f"missing: m{i}") for i in range(missing)]


def listing_of(records):
    return Listing("list", Path(), ("a",), iter(records), notes=["a note"])


@pytest.mark.parametrize("options", [OPTIONS, EncodeOptions("64x48", codec="vp9"), EncodeOptions("128x96", fps=10)])
def test_size_is_that_of_the_shards_a_run_makes(video, tmp_path, options):
    """Of videos that are alike, also where only some of them are tried."""
    folder = tmp_path / "videos" / "a"
    folder.mkdir(parents=True)
    for i in range(12):
        (folder / f"{i}.mp4").symlink_to(video("long.mp4"))
    listing = list_folder(tmp_path / "videos", 0.25)
    said = estimate(listing, tmp_path / "out", options, 2)
    assert (said.tried, said.rejected, said.videos) == (8, 0, {"train": 9, "val": 3})
    made = preprocess(listing, tmp_path / "out", options, partial(write_shards_locally, workers=2))
    assert made.videos == said.videos
    assert 0.8 < said.size / made.size < 1.2


def test_numbers_add_up(video, tmp_path):
    said = estimate(listing_of(records_of(video("one_frame.mp4"), 21, missing=12)), tmp_path / "out", OPTIONS, 5)
    # Two for each worker, eight at least.
    assert (said.tried, said.rejected) == (10, 0)
    assert said.videos == {"train": 16, "val": 5}
    assert [record.key for record in said.missing] == [f"m{i}" for i in range(12)]
    assert said.hours == pytest.approx(21 / said.videos_per_second / 3600)
    assert said.notes == ("a note",)
    assert said.free > 0
    assert list(tmp_path.iterdir()) == []


def test_videos_that_would_be_rejected_take_no_room(video, tmp_path):
    (tmp_path / "text.mp4").write_text("no video")
    whole = estimate(listing_of(records_of(video("one_frame.mp4"), 4)), tmp_path, OPTIONS, 1)
    broken = [VideoRecord(f"b{i}", tmp_path / name, (0,), "train") for i, name in enumerate(("text.mp4", "none.mp4"))]
    half = estimate(listing_of([*records_of(video("one_frame.mp4"), 2), *broken]), tmp_path, OPTIONS, 1)
    assert (whole.tried, whole.rejected, half.tried, half.rejected) == (4, 0, 4, 2)
    assert half.size * 2 == whole.size


def test_of_nothing_but_missing_videos(tmp_path):
    said = estimate(listing_of(records_of(tmp_path, 0, missing=2)), tmp_path / "a" / "b", OPTIONS, 3)
    assert (said.tried, said.hours, said.size, said.videos) == (0, 0.0, 0, {})
    assert said.lines(3) == [
        "note: a note",
        "found none; missing 2",
        "missing in val: 2",
        "  missing: m0",
        "  missing: m1",
    ]


def test_only_some_of_many_missing_are_shown_to_a_person():
    missing = tuple(records_of(Path(), 0, missing=25))
    said = Estimate({"train": 10_000}, missing, (), 8, 1, 2.0, 1.39, 3_500_000_000, 10**12, "mjpeg", 12.0)
    lines = said.lines(4)
    assert lines[:2] == ["found 10,000 train; missing 25", "missing in val: 25"]
    assert lines[2:12] == [f"  missing: m{i}" for i in range(10)]
    assert lines[12] == "  and 15 more (--json lists all)"
    assert lines[13] == (
        "tried 8 videos (1 would be rejected): 2.0 videos/s with 4 workers, so about 1.39 hours and 3.50 GB; "
        "1000 GB are free"
    )
    assert [about["key"] for about in said.as_json()["missing"]] == [f"m{i}" for i in range(25)]


def test_the_videos_tried_are_spread_over_all(video, tmp_path):
    """Half of them, one behind the other, cannot be read."""
    (tmp_path / "text.mp4").write_text("no video")
    sources = [video("one_frame.mp4")] * 40 + [tmp_path / "text.mp4"] * 40
    records = [VideoRecord(f"{i:02d}", source, (0,), "train") for i, source in enumerate(sources)]
    said = estimate(listing_of(records), tmp_path, OPTIONS, 8)
    assert said.tried == 16
    assert 4 <= said.rejected <= 12


def test_ctrl_c_ends_a_dry_run_at_once(video, tmp_path):
    """Not only after the videos that are being encoded."""
    (tmp_path / "videos" / "a").mkdir(parents=True)
    (tmp_path / "videos" / "a" / "1.mp4").symlink_to(video("h264.mp4"))
    slow = tmp_path / "ffmpeg"
    slow.write_text(
        f'#!/bin/sh\n[ -s /dev/stdin ] && touch {tmp_path}/begun && exec sleep 60\nexec {executable()} "$@"\n'
    )
    slow.chmod(0o755)
    process = subprocess.Popen(
        [sys.executable, "-m", "cli", "preprocess", "folder", "--videos", tmp_path / "videos", "--dry-run"],
        env={**os.environ, "V4D_FFMPEG": str(slow)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 60
    while not (tmp_path / "begun").exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=30)
    assert (process.returncode, said) == (130, "v4d: stopped\n")
