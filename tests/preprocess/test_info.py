import io
import json
import shutil

import pytest
from rich.console import Console

from preprocess.errors import DataError
from preprocess.index import FORMAT, as_record_batch, read_dataset, write_index
from preprocess.info import read_info
from tests.conftest import LONG_CLASS
from tests.preprocess.test_index import numbered_row


def shown(info, every_class=False):
    console = Console(file=io.StringIO(), width=200, highlight=False, markup=False)
    for part in info.show(every_class):
        console.print(part)
    return console.file.getvalue()


def test_what_a_dataset_holds(small):
    info, dataset = read_info(small), read_dataset(small)
    assert (info.name, info.kind, info.codec, info.gop, info.size) == ("small", "folder", "mjpeg", 1, (48, 32))
    assert info.classes == ("a", "b", LONG_CLASS)
    for split, about in info.splits.items():
        rows = list(dataset.split(split))
        assert (about.videos, about.frames) == (len(rows), sum(row.frames for row in rows))
        assert about.hours == pytest.approx(sum(row.end - row.start for row in rows) / 3600)
        assert about.bytes == sum(path.stat().st_size for path in (small / split).glob("*.tar"))
        assert about.labels == tuple(sum(row.label == label for row in rows) for label in range(3))
    assert sum(sum(about.labels) for about in info.splits.values()) == 8
    assert info.rejected == {"not readable as a video": 2}
    assert info.options["quality"] == 12


def test_json_is_the_same(small):
    info = read_info(small)
    document = json.loads(info.as_json())
    assert document["classes"] == list(info.classes)
    assert document["splits"]["train"]["labels"] == list(info.splits["train"].labels)
    assert document["options"] == info.options
    assert document["rejected"] == info.rejected


def test_text_for_people(small):
    info = read_info(small)
    said = shown(info)
    assert "small: folder, 3 classes, mjpeg, GOP 1, 48x32" in said
    assert "left out, 2 videos:\n  2 not readable as a video" in said
    assert f"  ffmpeg {info.options['ffmpeg']}" in said
    assert LONG_CLASS not in said
    table = shown(info, every_class=True)
    assert LONG_CLASS in table
    assert "videos per class" not in table


def test_layers_are_told(vp9):
    assert "vp9: folder, 1 classes, vp9, GOP 8 in 3 layers, 64x48" in shown(read_info(vp9))


@pytest.fixture
def many_classes(tmp_path):
    """400 classes; row i of train has the labels i % 7 and, if that is even, 399; the last two rows have none."""
    from dataclasses import replace

    def labels(number):
        return () if number > 97 else (number % 7,) + (399,) * (number % 7 % 2 == 0)

    rows = [replace(numbered_row(number), labels=labels(number)) for number in range(100)]
    write_index(tmp_path / "train" / "index.arrow", [as_record_batch(rows)], {})
    write_index(tmp_path / "test" / "index.arrow", [], {})
    counts = {"frames": 0, "shards": []}
    content = {
        "format": FORMAT,
        "kind": "csv",
        "codec": "mjpeg",
        "gop": 1,
        "size": None,
        "classes": [f"class {number}" for number in range(400)],
        "options": {},
        "splits": {"train": {"videos": 100, **counts}, "test": {"videos": 0, **counts}},
    }
    (tmp_path / "dataset.json").write_text(json.dumps(content))
    (tmp_path / "rejected.jsonl").write_text("")
    return tmp_path


def test_many_classes_stay_readable(many_classes):
    info = read_info(many_classes)
    train = info.splits["train"]
    assert train.labels == (14, 14, 14, 14, 14, 14, 14, *[0] * 392, 56)
    assert train.unlabelled == 2
    said = shown(info)
    assert len(said.splitlines()) < 15
    assert "400 classes, mjpeg, GOP 1, sizes that differ" in said
    assert "train: videos per class 0 to 56, median 0, 2 videos without a label" in said
    assert "train: no video of 392 classes: class 7, class 8," in said
    assert "class 16 and 382 more" in said
    assert "test: no videos" in said
    assert len(shown(info, every_class=True).splitlines()) > 400


def test_what_ffmpeg_says_may_hold_other_line_breaks(small, tmp_path):
    data = shutil.copytree(small, tmp_path / "copy")
    said = {"key": "k", "split": "val", "source": "s", "reason": "damaged: all", "ffmpeg": "a\u2028b\u0085c"}
    with open(data / "rejected.jsonl", "a") as lines:
        lines.write(json.dumps(said, ensure_ascii=False) + "\n")
    assert read_info(data).rejected == {"not readable as a video": 2, "damaged": 1}


def test_what_cannot_be_read(small, tmp_path):
    with pytest.raises(DataError, match=r"holds no dataset\.json"):
        read_info(tmp_path)
    data = shutil.copytree(small, tmp_path / "copy")
    (data / "rejected.jsonl").unlink()
    with pytest.raises(DataError, match=r"is damaged .*: v4d verify .* says where"):
        read_info(data)
