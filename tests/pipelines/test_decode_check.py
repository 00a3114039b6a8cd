import shutil

import numpy as np
import pytest
import torch

from pipelines import decode_check
from pipelines.decode_check import Undecodable, decode_faults
from preprocess.errors import DataError, UsageError
from preprocess.index import read_dataset, shard_name
from preprocess.rebuild import rebuild
from tests.preprocess.damage import rewrite


@pytest.fixture
def damaged(dataset, tmp_path):
    """A copy of the dataset, to be damaged."""
    return read_dataset(shutil.copytree(dataset.root, tmp_path / "copy"))


def overwrite(dataset, split, row, frame, content, begin=0):
    """Put other bytes into a JPEG."""
    with open(dataset.root / split / shard_name(row.shard), "r+b") as file:
        file.seek(row.offset + int(row.packet_bytes[:frame].sum()) + begin)
        file.write(content)


def test_every_frame_decodes(dataset):
    seen = []
    assert list(decode_faults(dataset, on_video=seen.append)) == []
    assert seen == sorted(seen)
    assert seen[-1] == sum(about["videos"] for about in dataset.splits.values())


def test_culprits_are_named(damaged):
    rows = {split: next(row for row in damaged.split(split) if row.frames > 30) for split in ("train", "val")}
    for split, row in rows.items():
        for frame in (3, 30):
            overwrite(damaged, split, row, frame, bytes(60))
    found = list(decode_faults(damaged))
    assert [(f.split, f.shard, f.key, f.frame) for f in found] == [
        (split, row.shard, row.key, frame) for split, row in rows.items() for frame in (3, 30)
    ]
    assert all(fault.what.startswith("does not decode: ") for fault in found)


def test_more_failures_than_processes_are_started_for(damaged):
    wanted = []
    for split in ("train", "val"):
        for row in damaged.split(split):
            frames = (0, row.frames - 1) if row.frames > 1 else (0,)
            for frame in frames:
                overwrite(damaged, split, row, frame, bytes(60))
                wanted.append((split, row.key, frame))
    assert [(fault.split, fault.key, fault.frame) for fault in decode_faults(damaged)] == wanted


def test_frame_of_another_size(damaged):
    row = damaged.split("train")[0]
    start = row.offset
    packet = (damaged.root / "train" / shard_name(row.shard)).read_bytes()[start : start + int(row.packet_bytes[0])]
    # Height and width follow the marker, length and precision of the frame's header.
    at = packet.index(b"\xff\xc0") + 5
    assert packet[at : at + 4] == bytes([0, 64, 0, 80])
    overwrite(damaged, "train", row, 0, bytes([0, 48, 0, 80]), at)
    assert list(decode_faults(damaged)) == [
        Undecodable("train", row.shard, row.key, 0, "decodes to 80x48, not 80x64"),
    ]


def test_shard_that_is_missing(damaged):
    (damaged.root / "val" / shard_name(0)).unlink()
    with pytest.raises(DataError, match=r"val/shard-00000\.tar cannot be read"):
        list(decode_faults(damaged))


@pytest.fixture
def videos_vp9(vp9, tmp_path):
    data = shutil.copytree(vp9, tmp_path / "vp9")
    rebuild(data)
    return read_dataset(data)


def damage_packet(dataset, row, frame):
    """Its first bits say that a packet is VP9."""
    with open(dataset.root / "train" / shard_name(row.shard), "r+b") as file:
        file.seek(row.offset + 32 + int((row.packet_bytes[:frame] + 12).sum()) + 12)
        file.write(b"\0")


def test_vp9(videos_vp9):
    assert list(decode_faults(videos_vp9)) == []
    row = videos_vp9.split("train")[0]
    damage_packet(videos_vp9, row, 17)
    (found,) = decode_faults(videos_vp9)
    assert (found.key, found.frame, found.what.partition(":")[0]) == (row.key, 0, "does not decode")


@pytest.mark.parametrize(("frames", "firsts"), [(1, [0, 8, 16]), (9, [0, 8, 16]), (17, [0, 16]), (99, [0])])
def test_long_videos_are_cut_before_keyframes(videos_vp9, monkeypatch, frames, firsts):
    monkeypatch.setattr(decode_check, "_BYTES_AT_ONCE", frames * 64 * 48 * 3)
    group = [("train", 0)]
    assert [piece.frame for piece in decode_check._pieces(videos_vp9, group)] == firsts
    assert list(decode_check._one_by_one(videos_vp9, group)) == []
    damage_packet(videos_vp9, videos_vp9.split("train")[0], 17)
    (found,) = decode_check._one_by_one(videos_vp9, group)
    assert found.frame == firsts[-1]


def test_vp9_of_another_size(videos_vp9):
    for path in videos_vp9.root.rglob("*.tar"):
        assert b'"width": 64' in path.read_bytes()
        rewrite(path, lambda name, content: content.replace(b'"width": 64', b'"width": 66'), signed=True)
    rebuild(videos_vp9.root)
    found = list(decode_faults(read_dataset(videos_vp9.root)))
    assert [fault.what for fault in found] == [
        "decodes to 20 frames of 64x48, not 20 frames of 66x48",
        "decodes to 3 frames of 64x48, not 3 frames of 66x48",
    ]
    assert videos_vp9.codec == "vp9"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU, which decodes H.264")
def test_h264_without_a_gpu(dataset):
    from dataclasses import replace

    with pytest.raises(UsageError, match=r"is H\.264, which only a GPU decodes here"):
        list(decode_faults(replace(dataset, codec="h264")))


def test_pieces_hold_every_packet(videos_vp9):
    pieces = list(decode_check._pieces(videos_vp9, [("train", 0), ("train", 1)]))
    assert [piece.shape[0] for piece in pieces] == [20, 3]
    assert all(bytes(piece.data[:4]) == b"DKIF" for piece in pieces)
    for piece in pieces:
        assert len(piece.data) == 32 + int((piece.row.packet_bytes + np.int64(12)).sum())
