import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from preprocess.datasets.video_files import SUFFIXES, VideoFiles
from preprocess.errors import DataError


@pytest.fixture
def found(tmp_path, make):
    """A function: makes files below a folder, looks some stems up, and returns the path of the one that is found."""

    def find(files, *stems, **how):
        make(tmp_path, dict.fromkeys(files, ""))
        path = VideoFiles(tmp_path).find(*stems, **how)
        return path and path.relative_to(tmp_path).as_posix()

    return find


@pytest.mark.parametrize("file", ["a.mp4", "x/a.mkv", "x/y/z/a.WebM", "x.mp4/a.MP4"])
def test_a_file_anywhere(found, file):
    assert found([file, "x/other.mp4", "a.txt", "a.mp4.part"], "a") == file


@pytest.mark.parametrize("file", [".a.mp4", ".x/a.mp4", "a.avi", "a", "a.mp4/b", "A.mp4", "a.b.mp4"])
def test_what_is_no_video_of_that_name(found, file):
    assert found([file], "a") is None


def test_names_with_dots_and_dashes(found):
    assert found(["-a.b.mp4"], "-a.b") == "-a.b.mp4"


CHOICES = [
    ("a.mp4", "a.mkv", {}),
    ("a.mkv", "a.webm", {}),
    ("a.MP4", "a.mkv", {}),
    ("b/a.mp4", "c/a.mp4", {}),
    ("z/a.mp4", "b/a.webm", {}),
    ("train/a.webm", "a.mp4", {"split": "train"}),
    ("validate/a.webm", "train/a.mp4", {"split": "val"}),
    ("x/Validation/y/a.webm", "a.mp4", {"split": "val"}),
    ("val/a.webm", "test/a.mp4", {"split": "val"}),
    ("train/b/a.webm", "b b/a.mp4", {"split": "train", "class_name": "b b"}),
    ("b_b/a.webm", "c/a.mp4", {"class_name": "b b"}),
    ("B b/a.webm", "c/a.mp4", {"class_name": "b_b"}),
    ("replacement_for_corrupted_k400/a.webm", "train/b/a.mp4", {"split": "train", "class_name": "b"}),
    ("z/replacement_for_corrupted_k400/b.webm", "train/a.mp4", {"split": "train"}),
    ("z/a.webm", "train/b.mp4", {"split": "train"}),
]


@pytest.mark.parametrize(("first", "second", "how"), CHOICES)
def test_choice_of_two(found, first, second, how):
    assert found([second, first], "a", "b", **how) == first


def test_choice_does_not_depend_on_the_names_that_are_there_else(found):
    """The best of many, in whatever order the walk finds them."""
    files = [f"{folder}/a{suffix}" for folder in ("x", "val", "train", "b") for suffix in SUFFIXES]
    assert found(files, "a", split="val") == "val/a.mp4"
    assert found([], "a", class_name="b") == "b/a.mp4"
    assert found([], "a") == "b/a.mp4"


IDS = ["ID_000001_000011.mp4", "ID_000002_000012.mp4", "ID.mp4", "v_ID.mp4"]


@pytest.mark.parametrize(
    ("files", "times", "wanted"),
    [
        (IDS, (2.0, 12.0), "ID_000002_000012.mp4"),
        (IDS, (2.5, 12.9), "ID_000002_000012.mp4"),
        (IDS, (3.0, 13.0), "ID.mp4"),
        (IDS, None, "ID_000001_000011.mp4"),
        (IDS[3:], None, "v_ID.mp4"),
        (IDS[3:], (1.0, 2.0), "v_ID.mp4"),
        (["ID_1_2.mp4", "ID_000001.mp4", "ID_000001_000011_x.mp4", "xID.mp4", "ID_0.mp4"], None, None),
        (["ID_999999_1000009.mkv", "ID_.mp4", "ID_x.mp4"], None, "ID_999999_1000009.mkv"),
        (["IDE_000001_000011.mp4", "I_000001_000011.mp4"], None, None),
    ],
)
def test_by_id(tmp_path, make, files, times, wanted):
    make(tmp_path, dict.fromkeys(files, ""))
    path = VideoFiles(tmp_path).find_id("ID", times)
    assert (path and path.name) == wanted


def test_cuts_of_an_id_among_others(tmp_path, make):
    ids = ["a", "a_000001", "b", "b-", "bb", "-b", "_", "__"]
    make(tmp_path, {f"{one}_{at:06d}_{at + 10:06d}.mp4": "" for one in ids for at in range(3)})
    files = VideoFiles(tmp_path)
    assert len(files) == len(ids) * 3
    for one in ids:
        assert files.find_id(one).name == f"{one}_000000_000010.mp4"


strange = st.sampled_from(
    ["../secret", "..", "/etc/passwd", "\0", "a/b", "", ".", "a/../a", "\ud800", "x" * 5000, "a\n"]
)


@given(strange | st.text(), st.none() | st.just((1.0, 2.0)))
def test_no_name_leads_outside(folder, make, name, times):
    make(folder, {"videos/a.mp4": "", "secret.mp4": ""})
    path = VideoFiles(folder / "videos").find_id(name, times, split=name, class_name=name)
    assert path == (folder / "videos" / "a.mp4" if name == "a" else None)


def test_links(tmp_path, make):
    make(tmp_path, {"videos/real/a.mp4": "", "elsewhere/deep/b.mp4": "", "c.mp4": ""})
    videos = tmp_path / "videos"
    (videos / "above").symlink_to("real")
    (videos / "real" / "round").symlink_to("..")
    (videos / "linked").symlink_to("../elsewhere")
    (videos / "linked too").symlink_to("../elsewhere/deep")
    (videos / "self").symlink_to("self")
    (videos / "self.mp4").symlink_to("self.mp4")
    (videos / "gone.mp4").symlink_to("nowhere")
    (videos / "C.mp4").symlink_to("../c.mp4")
    os.mkfifo(videos / "fifo.mp4")
    files = VideoFiles(videos)
    assert len(files) == 3
    # A folder goes by its own path, not by a link that comes first.
    assert files.find("a") == videos / "real" / "a.mp4"
    assert files.find("b") == videos / "linked" / "deep" / "b.mp4"
    assert files.find("C") == videos / "C.mp4"


def test_names_that_are_no_text(tmp_path):
    name = os.fsdecode(b"\xff")
    (tmp_path / name).mkdir()
    (tmp_path / name / f"{name}.mp4").touch()
    assert VideoFiles(tmp_path).find(name) == tmp_path / name / f"{name}.mp4"


def test_the_current_folder(tmp_path, make, monkeypatch):
    make(tmp_path, {"-a.mp4": ""})
    monkeypatch.chdir(tmp_path)
    assert VideoFiles(Path()).find("-a") == Path("-a.mp4")


def test_no_folder(tmp_path):
    with pytest.raises(DataError, match=r"nowhere is missing: name the folder of the videos$"):
        VideoFiles(tmp_path / "nowhere")
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=r"file is no folder: name the folder of the videos$"):
        VideoFiles(tmp_path / "file")
