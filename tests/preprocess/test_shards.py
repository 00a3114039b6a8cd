import json
import re
import tarfile
import zlib
from dataclasses import replace
from io import BytesIO
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest

from preprocess.errors import DataError, Interrupted
from preprocess.ffmpeg import EncodeOptions
from preprocess.index import VideoRow, as_record_batch, packet_offsets
from preprocess.records import VideoRecord
from preprocess.shard_tar import ABOUT, REJECTED
from preprocess.shards import BUILDING, ShardPlan, plan_shards, read_part, write_shard

OPTIONS = EncodeOptions("96x80", quality=2)
HEADER = {"kind": "test", "classes": ["a", "b"]}
LONG_KEY = "/".join(["漢" * 80, "é" * 80])


@pytest.fixture
def plan(video, tmp_path):
    """A shard of five videos, of which the fourth cannot be read."""
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    sources = [video("h264.mp4"), video("vfr.mkv"), video("one_frame.mp4"), tmp_path / "broken.mp4", video("av1.webm")]
    keys = ["a/plain", "a/vfr", "b/one", "b/broken", LONG_KEY]
    records = [VideoRecord(key, path, (i,), "train") for i, (key, path) in enumerate(zip(keys, sources, strict=True))]
    (tmp_path / "data" / BUILDING).mkdir(parents=True)
    return ShardPlan(tmp_path / "data", tmp_path, "train", 7, 9, tuple(records), (), OPTIONS, HEADER)


def write(plan):
    taken = []
    write_shard(plan, taken.append, stopped=lambda: False)
    return taken


def rows_of(part):
    return [VideoRow(**values) for values in part.rows.to_pylist()]


def test_videos_are_counted_and_rejected(plan):
    assert write(plan) == [True, True, True, False, True]
    part = read_part(plan)
    assert [(row.key, row.frames) for row in rows_of(part)] == [
        ("a/plain", 30),
        ("a/vfr", 12),
        ("b/one", 1),
        (LONG_KEY, 30),
    ]
    assert part.rejected == (
        {
            "key": "b/broken",
            "split": "train",
            "source": "broken.mp4",
            "reason": "not readable as a video",
            "ffmpeg": "Invalid data found when processing input",
        },
    )
    assert part.size == plan.tar.stat().st_size
    assert {path for path in plan.data.rglob("*") if path.is_file()} == {plan.tar, plan.part}


def test_every_packet_lies_where_the_index_says(plan):
    write(plan)
    content = plan.tar.read_bytes()
    for row in rows_of(read_part(plan)):
        assert (row.width, row.height, row.size) == (96, 80, sum(row.packet_bytes))
        assert row.packet_back == [0] * row.frames
        at = row.offset
        for size, crc32 in zip(row.packet_bytes, row.packet_crc32, strict=True):
            packet = content[at : at + size]
            assert (packet[:2], packet[-2:]) == (b"\xff\xd8", b"\xff\xd9")
            assert zlib.crc32(packet) == crc32
            at += size


def test_tar_is_readable_as_a_webdataset(plan):
    write(plan)
    rows = rows_of(read_part(plan))
    content = plan.tar.read_bytes()
    assert len(content) % 512 == 0
    with tarfile.open(plan.tar) as tar:
        members = tar.getmembers()
        assert [member.name for member in members] == [
            ABOUT,
            *(f"{row.key}.{suffix}" for row in rows for suffix in ("mjpeg", "json")),
            REJECTED,
        ]
        assert json.loads(tar.extractfile(ABOUT).read()) == {**HEADER, "split": "train", "shard": 7, "shards": 9}
        assert [json.loads(line) for line in tar.extractfile(REJECTED)] == list(read_part(plan).rejected)
        members = members[1:-1]
        for row, packets, about in zip(rows, members[::2], members[1::2], strict=True):
            assert (packets.offset_data, packets.size) == (row.offset, row.size)
            assert tar.extractfile(packets).read() == content[row.offset : row.offset + row.size]
            described = json.loads(tar.extractfile(about).read())
            assert described["key"] == row.key
            assert described["frames"] == row.frames
            assert described["labels"] == row.labels
            without = re.sub(rb'"crc32": [0-9]+, ', b"", tar.extractfile(about).read())
            assert described["crc32"] == zlib.crc32(content[row.offset : row.offset + row.size] + without)


def test_shard_is_a_pure_function(plan):
    write(plan)
    once = plan.tar.read_bytes(), plan.part.read_bytes()
    plan.tar.unlink()
    plan.part.unlink()
    write(plan)
    assert (plan.tar.read_bytes(), plan.part.read_bytes()) == once


def psnr(a, b):
    return 10 * np.log10(255**2 / np.square(a.astype(float) - b).mean())


@pytest.mark.parametrize("name", ["h264.mp4", "vfr.mp4", "edit_list.mp4", "packed_b_frames.avi", "ten_bit.mp4"])
def test_frame_k_is_frame_k_of_the_source(video, run_ffmpeg, tmp_path, name):
    (tmp_path / BUILDING).mkdir()
    record = VideoRecord("a/b", video(name), (0,), "train")
    plan = ShardPlan(tmp_path, tmp_path, "train", 0, 1, (record,), (), OPTIONS, HEADER)
    write(plan)
    (row,) = rows_of(read_part(plan))
    content = plan.tar.read_bytes()
    scale = "scale=96:80:flags=bicubic,format=rgb24"
    raw = run_ffmpeg("-i", video(name), "-vf", scale, "-fps_mode", "passthrough", "-f", "rawvideo", "-")
    wanted = np.frombuffer(raw, np.uint8).reshape(-1, 80, 96, 3)
    frames = []
    ends = row.offset + np.cumsum([0, *row.packet_bytes])
    for begin, end in pairwise(ends):
        with av.open(BytesIO(content[begin:end]), format="mjpeg") as container:
            frames.append(next(container.decode(video=0)).to_ndarray(format="rgb24"))
    assert len(frames) == len(wanted) == row.frames
    for k, frame in enumerate(frames):
        likeness = [psnr(frame, other) for other in wanted]
        assert likeness[k] >= 35
        assert int(np.argmax(likeness)) == k


def test_shard_without_a_readable_video(plan):
    plan = replace(plan, records=plan.records[3:4])
    assert write(plan) == [False]
    part = read_part(plan)
    assert part.rows.equals(as_record_batch([]))
    with tarfile.open(plan.tar) as tar:
        assert tar.getnames() == [ABOUT, REJECTED]


def test_stop_leaves_nothing_behind(plan):
    taken = []
    with pytest.raises(Interrupted):
        write_shard(plan, taken.append, stopped=lambda: len(taken) == 2)
    assert taken == [True, True]
    assert [path for path in plan.data.rglob("*") if path.is_file()] == []


def test_disk_that_went_away_is_no_bad_video(plan, tmp_path):
    (tmp_path / "broken.mp4").unlink()
    with pytest.raises(DataError, match=r"broken\.mp4 was there when the run began and is not now \(No such file"):
        write(plan)
    assert [path for path in plan.data.rglob("*") if path.is_file()] == []


def plans(count, shard_size, split="train"):
    records = tuple(VideoRecord(str(i), Path(str(i)), (0,), split) for i in range(count))
    return plan_shards(Path("data"), Path("videos"), records, OPTIONS, shard_size, HEADER)


@pytest.mark.parametrize(
    ("count", "shard_size", "sizes"),
    [
        (10, 4, [4, 4, 2]),
        (8, None, [8]),
        (9, None, [8, 1]),
        (320, None, [10] * 32),
        (321, None, [11] * 29 + [2]),
        (256 * 32 + 1, None, [256] * 32 + [1]),
        (0, None, []),
    ],
)
def test_plan_divides_every_video_once(count, shard_size, sizes):
    made = plans(count, shard_size)
    assert [len(plan.records) for plan in made] == sizes
    assert [record.key for plan in made for record in plan.records] == [str(i) for i in range(count)]
    assert [plan.tar.name for plan in made] == [f"shard-{i:05d}.tar" for i in range(len(sizes))]


def test_plan_keeps_splits_apart():
    records = tuple(VideoRecord(str(i), Path(str(i)), (0,), "val" if i % 3 else "train") for i in range(9))
    made = plan_shards(Path("data"), Path("videos"), records, OPTIONS, 2, HEADER)
    assert [(plan.split, plan.number, len(plan.records)) for plan in made] == [
        ("train", 0, 2),
        ("train", 1, 1),
        ("val", 0, 2),
        ("val", 1, 2),
        ("val", 2, 2),
    ]
    assert {plan.tar for plan in made} == {Path("data") / plan.split / plan.tar.name for plan in made}
    assert all(record.split == plan.split for plan in made for record in plan.records)


def test_what_is_absent_is_said_and_takes_no_room(plan):
    videos = [VideoRecord(str(i), Path(str(i)), (0,), "train") for i in range(10)]
    absent = [VideoRecord(f"x{i}", Path("x"), (0,), "train", problem=f"missing: {i}") for i in range(7)]
    of_test = VideoRecord("t", Path("t"), (), "test", problem="missing: t")
    made = plan_shards(Path("data"), Path("videos"), [*absent, *videos, of_test], OPTIONS, 4, HEADER)
    assert [(p.split, p.number, p.shards, len(p.records)) for p in made] == [
        ("test", 0, 1, 0),
        ("train", 0, 3, 4),
        ("train", 1, 3, 4),
        ("train", 2, 3, 2),
    ]
    assert [record.key for p in made for record in p.absent] == ["t", *(record.key for record in absent)]
    assert all(abs(len(p.absent) - 7 / 3) < 1 for p in made[1:])

    write(replace(plan, absent=tuple(absent[:2])))
    assert [row["reason"] for row in read_part(plan).rejected] == [
        "missing: 0",
        "missing: 1",
        "not readable as a video",
    ]


@pytest.mark.parametrize("codec", ["vp9", "h264"])
def test_members_of_compact_codecs_are_ivf_files(plan, codec):
    options = EncodeOptions("96x80", codec=codec, gop=4)
    plan = replace(plan, options=options)
    write(plan)
    rows = rows_of(read_part(plan))
    content = plan.tar.read_bytes()
    with tarfile.open(plan.tar) as tar:
        members = {member.name: member for member in tar.getmembers()}
    assert len(rows) == 4
    for row in rows:
        member = members[f"{row.key}.ivf"]
        assert (member.offset_data, member.size) == (row.offset, row.size)
        assert content[row.offset : row.offset + 4] == b"DKIF"
        assert list(row.packet_back) == [options.back_of(i) for i in range(row.frames)]
        sizes = np.array(row.packet_bytes, np.int32)
        for at, size, crc32 in zip(packet_offsets(codec, sizes), sizes, row.packet_crc32, strict=True):
            assert zlib.crc32(content[row.offset + at : row.offset + at + size]) == crc32
        assert row.offset + at + size == row.offset + row.size


def test_cut_of_a_video(plan, video):
    record = VideoRecord("a/cut", video("long.mp4"), (0,), "train", trim=(1.0, 2.5))
    plan = replace(plan, records=(record,))
    write(plan)
    (row,) = rows_of(read_part(plan))
    assert (row.frames, row.start, row.end, row.fps_num, row.fps_den) == (45, 1.0, 2.5, 30, 1)
