import json
import random
import re
import shutil

import numpy as np
import pytest

from preprocess.errors import DataError
from preprocess.index import SCHEMA, Index, as_record_batch, read_dataset, shard_name, write_index
from preprocess.rebuild import rebuild
from preprocess.shard_reader import Fault
from preprocess.verify import verify
from tests.preprocess.damage import flip, keys_by_byte, rewrite
from tests.preprocess.test_run import do, tree


def faults(data, workers=1):
    told = []
    result = verify(data, workers, told.append)
    assert told == list(result.faults)
    assert all(len(str(fault).splitlines()) == 1 for fault in told)
    return told


@pytest.mark.parametrize("workers", [1, 2])
def test_whole_dataset(small, workers):
    before, shards = tree(small), []
    result = verify(small, workers, on_shard=lambda *counts: shards.append(counts))
    assert result.faults == ()
    dataset = read_dataset(small)
    rows = [row for split in dataset.splits for row in dataset.split(split)]
    assert (result.videos, result.packets) == (len(rows), sum(row.frames for row in rows))
    assert result.size == sum(path.stat().st_size for path in small.rglob("*") if path.is_file())
    assert shards == [(i + 1, 5) for i in range(5)]
    assert result.lines()[0].startswith(f"{small} is as it was written: 8 videos, ")
    assert tree(small) == before


def owners_in_index(path, folder):
    """For each byte of an index that holds a value of one video, its key: the bytes that change with the value."""
    index, owners = Index(path), {}
    rows, content = list(index), np.frombuffer(path.read_bytes(), np.uint8)
    for number, row in enumerate(rows):
        changed = {}
        for field in SCHEMA:
            value = getattr(row, field.name)
            if isinstance(value, np.ndarray):
                changed[field.name] = ~value
            elif isinstance(value, str):
                changed[field.name] = "".join(chr(ord(char) ^ 1) for char in value)
            elif isinstance(value, tuple):
                changed[field.name] = tuple(~label for label in value)
            elif isinstance(value, float):
                changed[field.name] = float(np.frombuffer((~np.float64(value).view(np.int64)).tobytes(), np.float64)[0])
            else:
                changed[field.name] = ~value
        others = [*rows[:number], type(row)(**changed), *rows[number + 1 :]]
        write_index(folder / "changed.arrow", [as_record_batch(others)], index.metadata)
        differing = np.flatnonzero(content != np.frombuffer((folder / "changed.arrow").read_bytes(), np.uint8))
        owners.update(dict.fromkeys(differing.tolist(), row.key))
    return owners


def test_every_flipped_bit_is_reported_with_its_video(copy, tmp_path):
    draw = random.Random(20)
    shards, indices = sorted(copy.rglob("*.tar")), sorted(copy.rglob("index.arrow"))
    whole = tree(copy)
    wanted = {path: owners_in_index(path, tmp_path) for path in indices}
    for path in shards:
        wanted[path] = {at: key for begin, end, key in keys_by_byte(path) for at in range(begin, end)}
    with_key = 0
    for path, flips in [*((path, 600 // len(shards)) for path in shards), *((path, 200) for path in indices)]:
        for _ in range(flips):
            at, bit = draw.randrange(path.stat().st_size), draw.randrange(8)
            flip(path, at, bit)
            found = faults(copy)
            flip(path, at, bit)
            where = path, at, bit, list(map(str, found))
            assert found, where
            assert {fault.file for fault in found} == {str(path.relative_to(copy))}, where
            # What no video owns in an index may still be the end of one's list, and so two videos' business.
            key = wanted[path].get(at, "" if path in shards else None)
            if key is not None:
                assert {fault.key for fault in found} == {key}, where
                with_key += bool(key)
    assert with_key > 400
    assert tree(copy) == whole


def test_every_kind_of_flipped_bit_in_a_shard(copy):
    """At the beginning and the end of whatever lies in it."""
    for path in sorted(copy.rglob("*.tar")):
        for begin, end, key in list(keys_by_byte(path)):
            for at in (begin, begin + 511, begin + 512, begin + 530, end - 513, end - 1):
                flip(path, at)
                found = faults(copy)
                flip(path, at)
                assert {(fault.file, fault.key) for fault in found} == {(str(path.relative_to(copy)), key)}, (at, found)


@pytest.mark.parametrize("name", ["dataset.json", "rejected.jsonl"])
def test_flipped_bits_beside_the_shards(copy, name):
    draw = random.Random(21)
    path = copy / name
    for _ in range(150):
        at, bit = draw.randrange(path.stat().st_size), draw.randrange(8)
        flip(path, at, bit)
        found = faults(copy)
        flip(path, at, bit)
        assert name in {fault.file for fault in found}, (at, bit, found)


def test_video_of_a_line_in_rejected(copy):
    path = copy / "rejected.jsonl"
    first, second = path.read_bytes().splitlines(keepends=True)
    for at, line in ((12, first), (len(first) - 1, first), (len(first) + 12, second)):
        flip(path, at)
        assert faults(copy) == [Fault("rejected.jsonl", json.loads(line)["key"], at, "the file is damaged")]
        flip(path, at)


def test_packet_is_named_with_its_frame_and_byte(copy):
    row = next(row for row in read_dataset(copy).split("train") if row.frames > 5)
    at = row.offset + int(row.packet_bytes[:3].sum())
    tar = copy / "train" / shard_name(row.shard)
    for byte in (at, at + int(row.packet_bytes[3]) - 1):
        flip(tar, byte)
        what = "the packet of frame 3 is damaged (CRC-32)"
        assert faults(copy) == [Fault(f"train/{tar.name}", row.key, at, what)]
        flip(tar, byte)


def test_damage_of_several_files_and_videos(copy):
    rows = list(read_dataset(copy).split("train"))
    for row in rows:
        flip(copy / "train" / shard_name(row.shard), row.offset + 20)
    flip(copy / "val" / "index.arrow", (copy / "val" / "index.arrow").stat().st_size // 2)
    found = faults(copy)
    assert {fault.key for fault in found if fault.file.startswith("train/shard-")} == {row.key for row in rows}
    assert {fault.file for fault in found} == {
        "val/index.arrow",
        *(f"train/{shard_name(row.shard)}" for row in rows),
    }
    lines = verify(copy).lines()
    assert lines[0].startswith(f"{copy} is damaged: {len(found)} faults in ")
    assert lines[1:] == [
        "restore the damaged shards, or preprocess again",
        f"what is no shard is made anew by: v4d index rebuild {copy}",
    ]


def cut(path):
    path.write_bytes(path.read_bytes()[:-700])


def lengthen(path):
    path.write_bytes(path.read_bytes() + bytes(512))


@pytest.mark.parametrize(
    ("name", "change", "what"),
    [
        ("train/shard-00000.tar", lambda path: path.unlink(), "the file is missing: 3 shards belong to the split"),
        ("train/shard-00000.tar", cut, "the file ends too early,"),
        ("train/shard-00000.tar", lengthen, "512 bytes follow the end of the archive,"),
        ("train/shard-00000.tar", lambda path: path.write_bytes(b""), "the file ends too early,"),
        ("train/shard-00003.tar", lambda path: path.write_bytes(b""), "the file is no part of the dataset"),
        ("train/notes.txt", lambda path: path.write_bytes(b""), "the file is no part of the dataset"),
        ("train/index.arrow", lambda path: path.unlink(), "the file is missing"),
        ("train/index.arrow", cut, "the file has [0-9]+ bytes, not [0-9]+: it differs"),
        ("train/index.arrow", lengthen, "the file has [0-9]+ bytes, not [0-9]+: it differs"),
        ("train/index.arrow", lambda path: path.write_bytes(b""), "the file has 0 bytes, not [0-9]+: it differs"),
        ("rejected.jsonl", lambda path: path.unlink(), "the file is missing"),
        ("rejected.jsonl", cut, "the file is damaged"),
        ("rejected.jsonl", lengthen, "the file is damaged"),
        ("dataset.json", lambda path: path.unlink(), "the file is missing"),
        ("dataset.json", cut, "the file cannot be read as v4d's"),
        ("dataset.json", lengthen, "the file cannot be read as v4d's"),
        ("dataset.json", lambda path: path.write_bytes(b"[1]"), "the file cannot be read as v4d's"),
        ("dataset.json", lambda path: path.write_bytes(path.read_bytes() + b"\n"), "the file is damaged"),
    ],
)
def test_files_of_other_lengths_missing_and_unknown(copy, name, change, what):
    change(copy / name)
    found = faults(copy)
    assert [fault.file for fault in found if not re.search(what, fault.what)] == []
    assert {fault.file for fault in found} == {name}
    if not name.endswith((".tar", ".txt")):
        rebuild(copy)
        assert faults(copy) == []


def test_shard_in_the_place_of_another(copy):
    first, second = (copy / "train" / shard_name(number) for number in range(2))
    content = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(content)
    assert {fault.file for fault in faults(copy)} == {f"train/{first.name}", f"train/{second.name}"}


def test_shard_of_another_dataset(copy):
    """Whole in itself, and of the same length."""
    tar = copy / "val" / shard_name(0)
    rewrite(tar, lambda name, content: content.replace(b'"quality": 12', b'"quality": 13'))
    (found,) = faults(copy)
    assert (found.file, found.what) == (f"val/{tar.name}", "the shard's description is not that of the other shards")


@pytest.mark.parametrize("spoil", [lambda path: path.unlink(), lambda path: path.write_bytes(b"{")])
def test_shards_are_checked_without_dataset_json(copy, spoil):
    row = read_dataset(copy).split("train")[1]
    flip(copy / "train" / shard_name(row.shard), row.offset + 99)
    spoil(copy / "dataset.json")
    found = faults(copy)
    assert found[0].file == "dataset.json"
    assert (f"train/{shard_name(row.shard)}", row.key) in {(fault.file, fault.key) for fault in found}
    assert "v4d index rebuild" in verify(copy).lines()[-1]


def test_index_that_arrow_does_not_survive(copy):
    """Lengths in its descriptions made huge: on some of these Arrow would end the process."""
    path = copy / "train" / "index.arrow"
    content = path.read_bytes()
    for at in range(0, len(content) - 8, 64):
        path.write_bytes(content[:at] + b"\xff" * 8 + content[at + 8 :])
        found = faults(copy)
        assert content[at : at + 8] == b"\xff" * 8 or {fault.file for fault in found} == {"train/index.arrow"}


def test_end_of_a_list_belongs_to_two_videos(copy):
    path = copy / "train" / "index.arrow"
    rows, content = list(Index(path)), path.read_bytes()
    ends = np.cumsum([0, *(row.frames for row in rows)], dtype=np.int32).tobytes()
    at = content.index(ends)
    for number, keys in ((0, {rows[0].key}), (1, {rows[0].key, rows[1].key}), (len(rows), {rows[-1].key})):
        flip(path, at + 4 * number)
        assert {fault.key for fault in faults(copy)} == keys
        flip(path, at + 4 * number)


def test_ivf_members(vp9, tmp_path):
    data = shutil.copytree(vp9, tmp_path / "data")
    rebuild(data)
    assert faults(data) == []
    tar = data / "train" / shard_name(0)
    for row in read_dataset(data).split("train"):
        # The header of the file, that of a packet, its first byte and the last byte of all.
        for at in (3, 28, 33, 40, 44, row.size - 1):
            flip(tar, row.offset + at)
            assert {(fault.file, fault.key) for fault in faults(data)} == {(f"train/{tar.name}", row.key)}, at
            with pytest.raises(DataError, match=f"video '{row.key}'"):
                rebuild(data)
            flip(tar, row.offset + at)


@pytest.fixture
def empty_val(video, tmp_path):
    """A dataset of which no video to evaluate on could be read: the one shard of its split holds none."""
    for name, content in (("train/a/1.mp4", video("h264.mp4").read_bytes()), ("val/a/2.mp4", b"no video")):
        (tmp_path / "videos" / name).parent.mkdir(parents=True)
        (tmp_path / "videos" / name).write_bytes(content)
    do(tmp_path / "videos", tmp_path / "data")
    return tmp_path / "data"


def test_a_shard_without_a_video(empty_val):
    before = tree(empty_val)
    assert faults(empty_val) == []
    for name in ("val/index.arrow", "dataset.json", "rejected.jsonl"):
        (empty_val / name).unlink()
    rebuild(empty_val)
    assert tree(empty_val) == before
    # Each byte counts here too.
    for at in range(0, (empty_val / "val/shard-00000.tar").stat().st_size, 100):
        flip(empty_val / "val/shard-00000.tar", at, 3)
        (fault,) = faults(empty_val)
        assert fault.file == "val/shard-00000.tar"
        flip(empty_val / "val/shard-00000.tar", at, 3)


def test_unfinished_and_no_dataset(copy, tmp_path):
    (copy / "dataset.json").unlink()
    (copy / ".building").mkdir()
    with pytest.raises(DataError, match="its preprocessing has not finished: run the same command again"):
        verify(copy)
    (tmp_path / "empty").mkdir()
    for nothing in (tmp_path / "empty", tmp_path / "missing"):
        with pytest.raises(DataError, match=r"holds no dataset\.json: run v4d preprocess"):
            verify(nothing)
