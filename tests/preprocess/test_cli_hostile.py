"""Annotations that somebody wrote to do harm: nothing is written outside ``--out``, and each gets a reason."""

import json
import os

import pytest

from tests.preprocess.work import about, rejected, taken

# What an annotation may claim that a video is called.
NAMES = [
    "../outside/secret",
    "../../outside/secret",
    "../../../../../../../../etc/passwd",
    "/etc/passwd",
    "/dev/zero",
    "/proc/self/environ",
    "..",
    ".",
    "~",
    "CON",
    "NUL.txt",
    "C:\\Windows\\x",
    "x" * 5000,
    "y/" * 2000 + "y",
    "$(touch harm)",
    "`touch harm`",
    "%s%n%d",
    "-i",
    "--help",
    "concat:a|b",
    "\u202e4pm.kcart",
    "\u2066\u200b",
    "́" * 300,
    "\U0001f4a9",
]
# JSON can also name these.
MORE_NAMES = ["a\0b", "new\nline", "\r", "\x1b[2J", "\u2028"]


@pytest.fixture
def hostile(work):
    """A work folder with one good video, beside which lies what must not be found."""
    work.put({"good.mp4": "h264.mp4", "1/00001.jpg": "no picture", ".hidden.mp4": "h264.mp4"}, "videos")
    work.put({"secret.mp4": "h264.mp4", "secret/00001.jpg": "x"}, "../outside")
    return work


def surroundings(work):
    """All files but those of the dataset ``out``."""
    files = {path: path.lstat().st_mtime_ns for path in work.root.parent.rglob("*")}
    return {path: time for path, time in files.items() if work.root / "out" not in (path, *path.parents)}


def assert_all_are_missing(work, run, names):
    """Each name is in rejected.jsonl, and the good video is taken."""
    reasons = rejected("out")
    assert len(reasons) == len(names)
    for split_and_key, reason in reasons.items():
        assert reason.startswith("missing: "), reason
        assert len(reason) < 300
        assert all(part.strip(".") for part in split_and_key.split("/"))
    assert [row.source for row in taken("out").values()] == ["good.mp4"]
    assert f"rejected {len(names)}: missing" in run.stdout
    assert not {"\0", "\x1b", "\r"} & set(run.stdout)


def test_ids_of_kinetics(hostile):
    ids = [*NAMES, "new\nline"]
    rows = "".join(f'a,"{name}",0,10,train\n' for name in ids)
    hostile.put({"k.csv": f"label,youtube_id,time_start,time_end,split\n{rows}a,good,0,10,train\n"})
    before = surroundings(hostile)
    run = hostile.preprocess("kinetics", "--annotations", "k.csv", "--videos", "videos", "--out", "out")
    assert surroundings(hostile).keys() == before.keys()
    assert_all_are_missing(hostile, run, ids)


def test_paths_of_mini_kinetics(hostile):
    # Of a path only the last name counts.
    names = [name for name in NAMES if 0 < len(name) < 200 and not name.endswith(("secret", "passwd"))]
    hostile.put({"train.txt": "".join(f"{name} 0\n" for name in [*names, "../outside/secret.mp4", "good.mp4"])})
    before = surroundings(hostile)
    run = hostile.preprocess("mini-kinetics", "--annotations", "train.txt", "--videos", "videos", "--out", "out")
    assert surroundings(hostile).keys() == before.keys()
    assert_all_are_missing(hostile, run, [*names, "secret"])


def test_ids_of_something_version_1_do_not_leave_the_folder(hostile):
    hostile.put({"v1-labels.csv": "a\n", "v1-train.csv": "".join(f"{name};a\n" for name in [*NAMES, "1"])})
    before = surroundings(hostile)
    files = ("--annotations", "v1-labels.csv", "--annotations", "v1-train.csv", "--videos", "videos")
    said = hostile.preprocess("something", *files, "--out", "out", code=1).stderr
    assert said == f"v4d: none of the {len(NAMES) + 1} videos could be read: see out/rejected.jsonl\n"
    assert surroundings(hostile).keys() == before.keys()
    reasons = rejected("out")
    assert reasons.pop("train/1") == "no JPEG: 00001.jpg"
    assert all(reason.startswith("missing: folder ") for reason in reasons.values())


@pytest.mark.parametrize("kind", ["something", "activitynet"])
def test_ids_in_json(hostile, kind):
    names = [*NAMES, *(name for name in MORE_NAMES if name.strip())]
    if kind == "something":
        ids = [{"id": name, "template": "a"} for name in [*names, "good"]]
        hostile.put({"labels.json": '{"a": 0}', "train.json": json.dumps(ids)})
        files = ["labels.json", "train.json"]
    else:
        row = {"subset": "training", "annotations": [{"label": "a", "segment": [0, 1]}]}
        nodes = [{"nodeName": "a", "parentName": None}]
        hostile.put({"a.json": json.dumps({"taxonomy": nodes, "database": dict.fromkeys([*names, "good"], row)})})
        files = ["a.json"]
    before = surroundings(hostile)
    named = [part for file in files for part in ("--annotations", file)]
    run = hostile.preprocess(kind, *named, "--videos", "videos", "--out", "out")
    assert surroundings(hostile).keys() == before.keys()
    assert_all_are_missing(hostile, run, names)


def test_a_list_of_what_is_no_file(hostile):
    """Nothing of it is waited for, read without end, or taken for a video."""
    os.mkfifo("videos/fifo.mp4")
    (hostile.root / "videos" / "loop.mp4").symlink_to("loop.mp4")
    (hostile.root / "videos" / "dangling.mp4").symlink_to("nowhere")
    (hostile.root / "videos" / "endless.mp4").symlink_to("/dev/zero")
    (hostile.root / "videos" / "folder.mp4").mkdir()
    missing = ["/dev/zero", "/dev/stdin", "/dev/tty", "fifo.mp4", "loop.mp4", "dangling.mp4", "endless.mp4"]
    missing += ["folder.mp4", ".", "..", "x" * 5000 + ".mp4", "1"]
    unreadable = ["/proc/self/environ", "/proc/self/maps", "/etc/passwd", "../../../../../../../../../../../etc/passwd"]
    hostile.put({"l.csv": "path,label\n" + "".join(f"{name},a\n" for name in [*missing, *unreadable, "good.mp4"])})
    before = surroundings(hostile)
    options = ("--annotations", "l.csv", "--videos", "videos", "--out", "out", "--timeout", 30, "--val-fraction", 0)
    hostile.preprocess("list", *options)
    assert surroundings(hostile).keys() == before.keys()
    reasons = sorted(reason.partition("…")[0] for reason in rejected("out").values())
    assert reasons == sorted([f"missing: {name[:60]}" for name in missing] + ["not readable as a video"] * 4)
    assert [row.source for row in taken("out").values()] == ["good.mp4"]


def test_a_list_that_leads_out_of_its_folder_leaves_its_keys_inside(hostile):
    """A list may name any video on the machine; under what name it is kept is not up to the list."""
    outside = hostile.root.parent / "outside" / "secret.mp4"
    hostile.put({"l.txt": f"../../outside/secret.mp4 a\n{outside} ../../a\n"})
    before = surroundings(hostile)
    options = ("--annotations", "l.txt", "--videos", "videos", "--out", "out", "--val-fraction", 0)
    hostile.preprocess("list", *options)
    assert surroundings(hostile).keys() == before.keys()
    assert len(taken("out")) == 2
    assert not any(".." in key for key in taken("out"))
    assert about("out")["classes"] == ["../../a", "a"]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"path,label\na\0b.mp4,a\n", "l.csv row 2: holds a NUL byte: save the file as UTF-8 text"),
        (b"path,label\n\xff.mp4,a\n", "l.csv row 2: is no UTF-8 text: save the file as UTF-8"),
        (b"path,label,split\ngood.mp4,a,../../x\n", "l.csv row 2: split is '../../x', not train, val or test"),
        (b"path,label,start,end\ngood.mp4,a,0,1e999\n", "l.csv row 2: end is '1e999', not a number"),
        (b"path,label\ngood.mp4,99999999999\n", "l.csv row 2: label is '99999999999', not a class from 0 to"),
        (b"path,label\n" + b"../../etc/passwd,a\n", "none of the 1 listed videos is in videos (missing: ../../etc"),
        (b"x" * (2 << 20), "l.csv row 1: is longer than 1,048,576 bytes: is it a text file?"),
        (b'path,label\n"good.mp4,a\n', "l.csv row 2: is no row of a csv file"),
    ],
)
def test_a_list_that_cannot_be_meant(hostile, content, says):
    hostile.put({"l.csv": content})
    before = surroundings(hostile)
    said = hostile.preprocess("list", "--annotations", "l.csv", "--videos", "videos", "--out", "out", code=1).stderr
    assert said.startswith(f"v4d: {says}")
    assert surroundings(hostile) == before
    assert not (hostile.root / "out").exists()


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("/dev/zero", "is no file"),
        ("fifo.csv", "is no file"),
        ("loop.csv", "is missing"),
        ("videos", "is a folder"),
        ("nowhere.csv", "is missing"),
        ("/proc/self/environ", "row 1: holds a NUL byte"),
        ("x" * 5000, "cannot be read: File name too long"),
    ],
)
@pytest.mark.parametrize("option", ["--annotations", "--classes"])
def test_annotations_that_are_no_file(hostile, option, path, says):
    os.mkfifo("fifo.csv")
    (hostile.root / "loop.csv").symlink_to("loop.csv")
    hostile.put({"good.csv": "path,label\ngood.mp4,a\n"})
    named = ("--annotations", path) if option == "--annotations" else ("--annotations", "good.csv", "--classes", path)
    said = hostile.preprocess("list", *named, "--videos", "videos", "--out", "out", code=1).stderr
    assert said.startswith(f"v4d: {path} {says}")
    assert not (hostile.root / "out").exists()


def test_a_video_folder_that_leads_round_in_a_circle(hostile):
    (hostile.root / "videos" / "again").symlink_to(".")
    (hostile.root / "videos" / "loop").symlink_to("loop")
    (hostile.root / "videos" / "up").symlink_to("../..")
    hostile.put({"k.csv": "label,youtube_id,time_start,time_end,split\na,good,0,10,train\n"})
    hostile.preprocess("kinetics", "--annotations", "k.csv", "--videos", "videos", "--out", "out")
    assert [row.source for row in taken("out").values()] == ["good.mp4"]
