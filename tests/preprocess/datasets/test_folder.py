import os
from pathlib import Path

import pytest

from preprocess.datasets.folder import list_folder
from preprocess.errors import DataError


def make(root, *files):
    for file in files:
        path = root / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return root


def sources(listing):
    return sorted((record.split, listing.classes[record.labels[0]], record.source.name) for record in listing.records)


def test_classes_are_in_alphabetical_order(tmp_path):
    listing = list_folder(make(tmp_path, "b/1.mp4", "a/2.avi", "c/3", "a/deep/er/4.mkv"), 0)
    assert listing.classes == ("a", "b", "c")
    assert sources(listing) == [
        ("train", "a", "2.avi"),
        ("train", "a", "4.mkv"),
        ("train", "b", "1.mp4"),
        ("train", "c", "3"),
    ]
    assert listing.notes == []


def test_given_splits_stay(tmp_path):
    listing = list_folder(make(tmp_path, "train/a/1.mp4", "train/b/2.mp4", "val/b/3.mp4", "val/c/4.mp4"), 0.9)
    assert listing.classes == ("a", "b", "c")
    assert sources(listing) == [
        ("train", "a", "1.mp4"),
        ("train", "b", "2.mp4"),
        ("val", "b", "3.mp4"),
        ("val", "c", "4.mp4"),
    ]


def test_train_alone_is_a_split(tmp_path):
    assert sources(list_folder(make(tmp_path, "train/a/1.mp4"), 0.5)) == [("train", "a", "1.mp4")]


def test_train_beside_other_classes_is_a_class(tmp_path):
    assert list_folder(make(tmp_path, "train/1.mp4", "bus/1.mp4"), 0).classes == ("bus", "train")


@pytest.mark.parametrize("names", [("train", "test"), ("Train", "Validation"), ("val",), ("training", "valid", "test")])
def test_splits_by_other_names_are_no_classes(tmp_path, names):
    root = make(tmp_path, *(f"{name}/a/1.mp4" for name in names))
    listed = ", ".join(sorted(names))
    with pytest.raises(DataError, match=rf"folders named like splits \({listed}\), not train and val: rename them"):
        list_folder(root, 0.2)


def test_folders_beside_the_splits_are_named(tmp_path):
    listing = list_folder(make(tmp_path, "train/a/1.mp4", "val/a/2.mp4", "test/a/3.mp4", "extra/x"), 0)
    assert len(listing.records) == 2
    assert listing.notes == [f"{tmp_path}: folders beside train and val ignored: extra, test"]


def test_hidden_and_loose_files_do_not_count(tmp_path):
    listing = list_folder(make(tmp_path, "a/1.mp4", "a/.2.mp4", "a/.d/3.mp4", ".git/x", "README", ".DS_Store"), 0)
    assert sources(listing) == [("train", "a", "1.mp4")]
    assert listing.notes == [f"{tmp_path}: 1 file(s) beside the class folders ignored"]


def test_class_without_files_is_noted(tmp_path):
    (tmp_path / "empty").mkdir()
    listing = list_folder(make(tmp_path, "a/1.mp4"), 0)
    assert listing.classes == ("a", "empty")
    assert listing.notes == ["class 'empty' holds no file"]


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda root: root / "nowhere", "is missing"),
        (lambda root: make(root, "file") / "file", "is no folder"),
        (lambda root: root, "holds no videos: expected"),
        (lambda root: make(root, "1.mp4"), "holds no videos: expected"),
        (lambda root: make(root, "a/.hidden"), "holds no videos: expected"),
    ],
)
def test_folder_without_videos(tmp_path, build, message):
    with pytest.raises(DataError, match=message) as caught:
        list_folder(build(tmp_path), 0.2)
    assert "\n" not in str(caught.value)


def test_what_cannot_be_read_still_counts(tmp_path):
    make(tmp_path, "a/1.mp4", "elsewhere/2.mp4")
    (tmp_path / "a" / "dangling").symlink_to("nowhere")
    (tmp_path / "a" / "folder").symlink_to("../elsewhere")
    (tmp_path / "a" / "loop").symlink_to(".")
    os.mkfifo(tmp_path / "a" / "fifo")
    names = [record.source.name for record in list_folder(tmp_path, 0).records if record.labels == (0,)]
    assert sorted(names) == ["1.mp4", "dangling", "fifo", "folder", "loop"]


def test_class_folder_may_be_a_link(tmp_path):
    make(tmp_path / "elsewhere", "1.mp4")
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "a").symlink_to("../elsewhere")
    assert sources(list_folder(tmp_path / "root", 0)) == [("train", "a", "1.mp4")]


def test_keys_differ(tmp_path):
    files = ["a.mp4", "a.mkv", "a", "b.mp4", "b.mp4.webm", "b.avi", "c", "c.mp4", "d/e.mp4", "d_e.mp4"]
    files += ["f.mp4", "f.g.mp4"]
    listing = list_folder(make(tmp_path, *(f"class/{file}" for file in files)), 0)
    assert len({record.key for record in listing.records}) == len(files)
    assert "class/f" in {record.key for record in listing.records}


def test_same_name_in_both_splits_is_no_clash(tmp_path):
    listing = list_folder(make(tmp_path, "train/a/1.mp4", "val/a/1.mkv"), 0)
    assert [record.key for record in listing.records] == ["a/1", "a/1"]


def test_names_that_are_no_text(tmp_path):
    strange = os.fsdecode(b"cl\xff\nss")
    make(tmp_path, f"{strange}/new\nline.mp4", "-dash/%d.mp4")
    (tmp_path / os.fsdecode(b"empty\xfe\n")).mkdir()
    listing = list_folder(tmp_path, 0)
    assert listing.classes == ("-dash", "cl\\xff\\nss", "empty\\xfe\\n")
    assert listing.notes == ["class 'empty\\xfe\\n' holds no file"]
    assert all(record.key.isprintable() for record in listing.records)


def test_missing_folder_with_a_line_break_in_its_name(tmp_path):
    with pytest.raises(DataError) as caught:
        list_folder(Path(f"{tmp_path}/new\nline"), 0)
    assert str(caught.value).startswith(f"{tmp_path}/new\\nline is missing")
