import itertools
import json
import resource
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from preprocess.durable_files import replace_atomically, sha256_of
from preprocess.errors import DataError
from preprocess.index import FORMAT, ROWS_PER_BATCH, Index, VideoRow, as_record_batch, read_dataset, write_index

int32, int64 = st.integers(-(2**31), 2**31 - 1), st.integers(-(2**63), 2**63 - 1)
seconds = st.floats(allow_nan=False)


@st.composite
def video_rows(draw):
    packets = draw(st.integers(0, 40))
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    return VideoRow(
        key=draw(st.text()),
        source=draw(st.text()),
        labels=tuple(draw(st.lists(int32, max_size=3))),
        shard=draw(int32),
        offset=draw(int64),
        size=draw(int64),
        frames=packets,
        width=draw(int32),
        height=draw(int32),
        fps_num=draw(int32),
        fps_den=draw(int32),
        start=draw(seconds),
        end=draw(seconds),
        segments=tuple(draw(st.lists(st.tuples(int32, seconds, seconds), max_size=3))),
        packet_bytes=random.integers(-(2**31), 2**31, packets, np.int32),
        packet_crc32=random.integers(0, 2**32, packets, np.uint32),
        packet_back=random.integers(0, 2**8, packets, np.uint8),
    )


def numbered_row(number):
    packets = number % 4
    return VideoRow(
        key=f"class/{number}",
        source=f"{number}.mp4",
        labels=(number % 7,),
        shard=number // 100,
        offset=number * 10**7,
        size=number,
        frames=packets,
        width=320,
        height=256,
        fps_num=30000,
        fps_den=1001,
        start=0.0,
        end=number / 30,
        segments=(),
        packet_bytes=np.arange(number, number + packets, dtype=np.int32),
        packet_crc32=np.arange(number, number + packets, dtype=np.uint32) * 1000,
        packet_back=np.zeros(packets, np.uint8),
    )


def assert_same(got, wanted):
    for field in fields(VideoRow):
        ours, theirs = getattr(got, field.name), getattr(wanted, field.name)
        if isinstance(theirs, np.ndarray):
            assert ours.dtype == theirs.dtype
            np.testing.assert_array_equal(ours, theirs)
        else:
            assert ours == theirs, field.name
            assert type(ours) is type(theirs), field.name


@given(st.lists(st.lists(video_rows(), max_size=4), max_size=4))
def test_any_rows_come_back(tmp_path_factory, batches):
    path = tmp_path_factory.mktemp("index") / "index.arrow"
    rows = [row for batch in batches for row in batch]
    assert write_index(path, (as_record_batch(batch) for batch in batches), {"text": "ü"}) == len(rows)
    index = Index(path)
    assert len(index) == len(rows)
    assert index.metadata == {"text": "ü"}
    for got, wanted in zip(index, rows, strict=True):
        assert_same(got, wanted)


@pytest.mark.parametrize("count", [0, 1, ROWS_PER_BATCH - 1, ROWS_PER_BATCH, ROWS_PER_BATCH + 1, 3000])
def test_any_number_of_rows_comes_back(tmp_path, count):
    rows = [numbered_row(i) for i in range(count)]
    parts = [as_record_batch(rows[first : first + 700]) for first in range(0, count, 700)]
    write_index(tmp_path / "index.arrow", parts, {})
    index = Index(tmp_path / "index.arrow")
    assert len(index) == count
    assert index.column("key") == [row.key for row in rows]
    for i in {0, 1, 699, 700, ROWS_PER_BATCH - 1, ROWS_PER_BATCH, count // 2, count - 1} & set(range(count)):
        assert_same(index[i], rows[i])
    for outside in (-1, count):
        with pytest.raises(IndexError, match=f"not {outside}$"):
            index[outside]


def test_parts_do_not_change_the_file(tmp_path):
    rows = [numbered_row(i) for i in range(1500)]
    for name, size in (("a", 1500), ("b", 11)):
        write_index(tmp_path / name, (as_record_batch(rows[i : i + size]) for i in range(0, 1500, size)), {"x": 1})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_packets_cannot_be_written_to(tmp_path):
    write_index(tmp_path / "index.arrow", [as_record_batch([numbered_row(3)])], {})
    row = Index(tmp_path / "index.arrow")[0]
    for packets in (row.packet_bytes, row.packet_crc32, row.packet_back):
        assert not packets.flags.writeable


def resident_megabytes():
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 1e6


def test_memory_does_not_grow_with_the_rows_read(tmp_path):
    path, random = tmp_path / "index.arrow", np.random.default_rng(0)
    packets = {
        "packet_bytes": random.integers(0, 2**31, 200, np.int32),
        "packet_crc32": random.integers(0, 2**32, 200, np.uint32),
        "packet_back": np.zeros(200, np.uint8),
    }
    batch = as_record_batch([replace(numbered_row(i), frames=200, **packets) for i in range(1000)])
    write_index(path, itertools.repeat(batch, 50), {})
    assert path.stat().st_size > 90e6
    index = Index(path)
    assert_same(index[0], replace(numbered_row(0), frames=200, **packets))
    before = resident_megabytes()
    for number in random.integers(0, 50_000, 5_000).tolist():
        row = index[number]
        assert row.key == f"class/{number % 1000}"
        np.testing.assert_array_equal(row.packet_crc32, packets["packet_crc32"])
    assert resident_megabytes() - before < 25


def test_label_of_a_row():
    row = numbered_row(3)
    assert row.label == 3
    assert VideoRow(**{**vars(row), "labels": ()}).label == -1
    assert json.loads(row.as_json(0))["labels"] == [3]
    assert not set(json.loads(row.as_json(0))) & {"packet_bytes", "packet_crc32", "packet_back"}


def test_index_that_is_missing(tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        Index(tmp_path / "index.arrow")


def test_index_cut_anywhere(tmp_path):
    path = tmp_path / "index.arrow"
    write_index(path, [as_record_batch([numbered_row(i) for i in range(9)])], {})
    content = path.read_bytes()
    for length in range(0, len(content), 97):
        path.write_bytes(content[:length])
        with pytest.raises(DataError, match="is no Arrow index"):
            Index(path)


def test_index_of_something_else(tmp_path):
    with pytest.raises(DataError, match="is no Arrow index"):
        Index(tmp_path)
    table = pa.table({"key": ["a"]})
    with pa.ipc.new_file(str(tmp_path / "x.arrow"), table.schema) as writer:
        writer.write_table(table)
    with pytest.raises(DataError, match="has other columns"):
        Index(tmp_path / "x.arrow")


def test_file_is_replaced_at_once(tmp_path):
    path = tmp_path / "deep" / "file"
    with replace_atomically(path) as temporary:
        temporary.write_text("new")
        assert not path.exists()
        assert temporary.parent == path.parent
    assert path.read_text() == "new"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt(), SystemExit(1)])
def test_file_stays_as_it_was_on_failure(tmp_path, error):
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(type(error)), replace_atomically(path) as temporary:
        temporary.write_text("half of the n")
        raise error
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_file_that_cannot_be_replaced(tmp_path):
    (tmp_path / "file").mkdir()
    with pytest.raises(OSError, match="file"), replace_atomically(tmp_path / "file") as temporary:
        temporary.write_text("new")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_index_that_fails_half_way_leaves_nothing(tmp_path):
    def batches():
        yield as_record_batch([numbered_row(1)])
        raise RuntimeError

    with pytest.raises(RuntimeError):
        write_index(tmp_path / "index.arrow", batches(), {})
    assert list(tmp_path.iterdir()) == []


def test_sha256(tmp_path):
    (tmp_path / "file").write_bytes(b"abc")
    assert sha256_of(tmp_path / "file") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


DATASET = {
    "format": FORMAT,
    "kind": "folder",
    "codec": "mjpeg",
    "classes": ["a", "ü"],
    "size": [320, 256],
    "options": {},
    "splits": {"train": {"videos": 2}},
}


def test_dataset_comes_back(tmp_path):
    (tmp_path / "dataset.json").write_text(json.dumps(DATASET))
    dataset = read_dataset(tmp_path)
    assert (dataset.classes, dataset.size, dataset.name) == (("a", "ü"), (320, 256), tmp_path.name)
    with pytest.raises(DataError, match="has no split 'test': it has train"):
        dataset.split("test")


def test_dataset_and_index_that_disagree(tmp_path):
    (tmp_path / "dataset.json").write_text(json.dumps(DATASET))
    write_index(tmp_path / "train" / "index.arrow", [as_record_batch([numbered_row(1)])], {})
    with pytest.raises(DataError, match=r"has 1 rows, dataset\.json says 2"):
        read_dataset(tmp_path).split("train")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"holds no dataset\.json: run v4d preprocess"),
        ("", "is none of v4d's"),
        ('{"format": 1', "is none of v4d's"),
        ("[1, 2]", "is none of v4d's"),
        ("{}", "is none of v4d's"),
        (json.dumps({"format": FORMAT}), "is none of v4d's"),
        (json.dumps({**DATASET, "options": 3}), "is none of v4d's"),
        (json.dumps({**DATASET, "format": FORMAT + 1}), f"has format {FORMAT + 1}, this version of v4d reads {FORMAT}"),
    ],
)
def test_what_is_no_dataset(tmp_path, content, message):
    if content is not None:
        (tmp_path / "dataset.json").write_text(content)
    with pytest.raises(DataError, match=message):
        read_dataset(tmp_path)


def test_dataset_that_is_not_finished(tmp_path):
    (tmp_path / ".building").mkdir()
    with pytest.raises(DataError, match="its preprocessing has not finished"):
        read_dataset(tmp_path)
