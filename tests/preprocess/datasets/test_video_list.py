import csv
import io
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from preprocess.datasets.video_list import list_videos_of_lists
from preprocess.records import VideoRecord, draw_split


@pytest.fixture
def listing(tmp_path, make):
    """A function: lists files by what they hold, among empty videos."""

    def list_them(files, videos=(), **options):
        make(tmp_path / "videos", {".keep": "", **dict.fromkeys(videos, "")})
        return list_videos_of_lists(make(tmp_path, files), tmp_path / "videos", **options)

    return list_them


def about(listing):
    return [(r.key, [listing.classes[label] for label in r.labels], r.split, r.problem) for r in listing.records]


@pytest.mark.parametrize("between", [" ", "   ", "\t", ",", ", ", ";", " ; "])
def test_lines(listing, tmp_path, between):
    lines = ["# a comment", "a/one.mp4 0", "", "b c/two.x.avi 2", "  # another", "-dash.mp4 0"]
    text = "\ufeff" + "\r\n".join(
        between.join(line.rsplit(" ", 1)) if ".mp4" in line or ".avi" in line else line for line in lines
    )
    found = listing({"train.txt": text}, ["a/one.mp4", "b c/two.x.avi"])
    assert (found.kind, found.root, found.notes) == ("list", tmp_path / "videos", [])
    assert found.classes == ("class 0", "class 1", "class 2")
    records = list(found.records)
    assert [(r.labels, r.split, r.problem) for r in records] == [
        ((0,), "train", ""),
        ((2,), "train", ""),
        ((0,), "train", "missing: -dash.mp4"),
    ]
    assert [record.key for record in (records[0], records[2])] == ["a/one", "-dash"]
    assert records[1].source == tmp_path / "videos" / "b c" / "two.x.avi"


def test_names_of_classes(listing, make, tmp_path):
    lines = {"train.txt": "1.mp4 run\n2.mp4 jump\n", "val.txt": "3.mp4 run\n4.mp4 walk\n"}
    found = listing(lines)
    assert found.classes == ("jump", "run", "walk")
    assert [record.labels for record in found.records] == [(1,), (0,), (1,), (2,)]
    (names,) = make(tmp_path, {"names.txt": "walk\nrun\nswim\njump\n"})
    found = listing(lines, classes=names)
    assert found.classes == ("walk", "run", "swim", "jump")
    assert [record.labels for record in found.records] == [(1,), (3,), (1,), (0,)]


def test_names_of_numbered_classes(listing, make, tmp_path):
    (names,) = make(tmp_path, {"names.txt": "walk\nrun\nswim\n"})
    assert about(listing({"val.txt": "1.mp4 1\n"}, ["1.mp4"], classes=names)) == [("1", ["run"], "val", "")]


def test_one_name_makes_all_labels_names(listing):
    assert listing({"val.txt": "1.mp4 10\n2.mp4 9\n3.mp4 x\n"}).classes == ("10", "9", "x")


def test_names_with_spaces_after_a_comma(listing):
    found = listing({"val.txt": '"a, b.mp4",riding a bike\nc, d.mp4,run\n'}, ["a, b.mp4", "c, d.mp4"])
    assert [(labels, problem) for _, labels, _, problem in about(found)] == [(["riding a bike"], ""), (["run"], "")]


def test_several_labels(listing):
    found = listing({"val.txt": "1.mp4 3|1\n2.mp4 0\n"})
    assert [record.labels for record in found.records] == [(1, 3), (0,)]
    found = listing({"val.csv": "path,labels\n1.mp4,b; a\n2.mp4,a|c|a\n"})
    assert (found.classes, [record.labels for record in found.records]) == (("a", "b", "c"), [(0, 1), (0, 2)])


def test_named_columns(listing):
    text = '"Subset";"class";extra;"video_path"\ntraining;run;x;1.mp4\nvalidation;walk;y;"2;3.mp4"\ntest;run;;4.mp4\n'
    found = listing({"any.csv": text}, ["1.mp4", "2;3.mp4", "4.mp4"])
    assert [(labels, split, problem) for _, labels, split, problem in about(found)] == [
        (["run"], "train", ""),
        (["walk"], "val", ""),
        (["run"], "test", ""),
    ]


def test_times(listing, tmp_path):
    text = "file,label,start,end\n1.mp4,0,1,2.0\n1.mp4,1,2,3\n1.mp4,0,,\n1.mp4,0,1,2\n1.mp4,0,1.25,2\n"
    records = list(listing({"val.csv": text}, ["1.mp4"]).records)
    assert [(record.trim, record.problem) for record in records] == [
        ((1, 2), ""),
        ((2, 3), ""),
        (None, ""),
        ((1, 2), f"listed before: {tmp_path}/val.csv row 2"),
        ((1.25, 2), ""),
    ]
    assert [record.key for record in records[:4]] == ["1_000001_000002", "1_000002_000003", "1", "1_000001_000002"]
    assert len({record.key for record in records}) == 4


def test_paths_of_another_machine(listing, tmp_path, make):
    make(tmp_path, {"elsewhere/x/1.mp4": ""})
    lines = [
        f"{tmp_path}/elsewhere/x/1.mp4 0",
        f"{tmp_path}/videos/a/1.mp4 0",
        "/root/data/a/2.mp4 0",
        "/root/data/b/3.mp4 0",
        "C:\\data\\a\\4.mp4 0",
        "a\\5.mp4 0",
        "/root/data/b/9.mp4 0",
        "data/3.mp4 0",
    ]
    videos = ["a/1.mp4", "a/2.mp4", "2.mp4", "3.mp4", "a/4.mp4", "a/5.mp4"]
    records = list(listing({"val.txt": "\n".join(lines)}, videos).records)
    assert [(record.key, str(record.source.relative_to(tmp_path)), record.problem) for record in records] == [
        ("x/1", "elsewhere/x/1.mp4", ""),
        ("a/1", "videos/a/1.mp4", ""),
        ("a/2", "videos/a/2.mp4", ""),
        ("3", "videos/3.mp4", ""),
        ("a/4", "videos/a/4.mp4", ""),
        ("a/5", "videos/a/5.mp4", ""),
        ("b/9", "videos/b/9", "missing: /root/data/b/9.mp4"),
        ("data/3", "videos/data/3", "missing: data/3.mp4"),
    ]


def test_keys_differ_where_the_videos_do(listing, tmp_path, make):
    make(tmp_path, {"x/a/1.mp4": "", "y/a/1.mp4": ""})
    files = ["a/1.mp4", "a/1.mkv", "a/1", "a/1.mp4.webm", "a/1_.mp4", "a_1.mp4", "a/b/1.mp4"]
    outside = [f"{tmp_path}/x/a/1.mp4", f"{tmp_path}/y/a/1.mp4"]
    records = list(listing({"val.txt": "\n".join(f"{name} 0" for name in files + outside)}, files).records)
    assert [record.problem for record in records] == [""] * len(records)
    assert len({record.key for record in records}) == len(records)
    assert records[0].key == "a/1"


def test_the_same_video_by_two_names(listing, tmp_path):
    text = f"a/1.mp4 0\n/root/a/1.mp4 0\n{tmp_path}/videos/a/1.mp4 1\nmissing.mp4 0\nmissing.mp4 0\n"
    records = list(listing({"val.txt": text, "train.txt": "a/1.mp4 0\n"}, ["a/1.mp4"]).records)
    assert [(record.key, record.split, record.problem) for record in records] == [
        ("a/1", "val", ""),
        ("a/1", "val", f"listed before: {tmp_path}/val.txt row 1"),
        ("a/1", "val", f"listed before: {tmp_path}/val.txt row 1"),
        ("missing", "val", "missing: missing.mp4"),
        ("missing", "val", f"listed before: {tmp_path}/val.txt row 4"),
        ("a/1", "train", ""),
    ]


def test_the_same_list_twice(tmp_path, make):
    (path,) = make(tmp_path, {"val.txt": "1.mp4 0\n"})
    make(tmp_path, {"videos/1.mp4": ""})
    records = list(list_videos_of_lists([path, path], tmp_path / "videos").records)
    assert [record.problem for record in records] == ["", f"listed before: {path} row 1"]


def test_a_split_is_drawn_where_there_is_none(listing):
    names = [f"{i}.mp4" for i in range(10)]
    text = "".join(f"{name} 0\n" for name in names)
    found = list(listing({"all.txt": text, "test.txt": "x.mp4 0\n"}, [*names, "x.mp4"], val_fraction=0.3).records)
    assert [(record.key, record.split) for record in found[:1]] == [("x", "test")]
    drawn = draw_split([VideoRecord(str(i), Path(), (0,), "") for i in range(10)], 0.3)
    assert [(record.key, record.split) for record in found[1:]] == [(record.key, record.split) for record in drawn]
    assert sum(record.split == "val" for record in found) == 3


def test_a_video_that_is_listed_twice_is_drawn_once(listing, tmp_path):
    found = list(
        listing({"all.txt": "1.mp4 0\n2.mp4 0\n1.mp4 0\n1.mp4 1\n"}, ["1.mp4", "2.mp4"], val_fraction=0.5).records
    )
    assert [record.key for record in found] == ["1", "2", "1", "1"]
    assert len({record.split for record in found if record.key == "1"}) == 1
    assert sorted(record.split for record in found[:2]) == ["train", "val"]
    assert [record.problem for record in found] == ["", "", *[f"listed before: {tmp_path}/all.txt row 1"] * 2]


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("val.txt", "", " is empty: name another file"),
        ("val.txt", "# nothing\n\n", ": no row lists a video: name another file"),
        ("val.txt", "1.mp4 0\n2.mp4\n", " row 2: is no video with its label: mend it"),
        ("val.txt", "1.mp4,0\n2.mp4\n", " row 2: is no video with its label after ',': mend it"),
        ("val.txt", "1.mp4,0\n,1\n", " row 2: the path is empty: mend it"),
        ("val.txt", "1.mp4,0\n2.mp4, \n", " row 2: a label is empty: mend it"),
        ("val.txt", "1.mp4 0\n2.mp4 0|\n", " row 2: a label is empty: mend it"),
        ("val.txt", "1.mp4 0\n2.mp4 -1\n", " row 2: label is '-1', not a class from 0 to 99999: mend it"),
        ("val.txt", "1.mp4 0\n2.mp4 999999999\n", " row 2: label is '999999999', not a class from 0 to 99999: mend it"),
        ("val.txt", '1.mp4,0\n"2.mp4,1\n', " row 2: is no row of a csv file (unexpected end of data): mend it"),
        ("val.csv", "path,label\n", " holds no row below its header: name another file"),
        ("val.csv", "path,label\n1.mp4,0\n2.mp4\n", " row 3: has 1 cells, the header 2: mend it"),
        ("val.csv", "path,label,path\n1,2,3\n", " row 1: the header has the column path twice: mend it"),
        ("val.csv", "path,label\n1.mp4,\n", " row 2: a label is empty: mend it"),
        ("x.csv", "path,label,split\n1.mp4,0,dev\n", " row 2: split is 'dev', not train, val or test: mend it"),
        ("x.csv", "path,label,start,end\n1.mp4,0,2,1\n", " row 2: from start 2 to end 1 is no time: mend it"),
        ("x.csv", "path,label,start,end\n1.mp4,0,2,\n", " row 2: end is '', not a number: mend it"),
        ("x.csv", "path,label,start\n1.mp4,0,2\n", " row 2: end is '', not a number: mend it"),
    ],
)
def test_faults(listing, message, tmp_path, name, text, said):
    assert message(lambda: listing({name: text})) == f"{tmp_path}/{name}{said}"


def test_faults_of_classes(listing, message, tmp_path, make):
    (names,) = make(tmp_path, {"names.txt": "walk\nrun\n"})
    said = message(lambda: listing({"val.txt": "1.mp4 walk\n2.mp4 swim\n3.mp4 fly\n"}, classes=names))
    assert said == f"{tmp_path}/val.txt row 2: label 'swim' is none of {names}: mend it"
    said = message(lambda: listing({"val.txt": "1.mp4 1\n2.mp4 2\n"}, classes=names))
    assert said == f"{tmp_path}/val.txt row 2: label is '2', not a class from 0 to 1: mend it"


def test_faults_of_the_call(listing, message, tmp_path):
    assert message(lambda: listing({})) == "no list: no row lists a video: name another file"
    said = message(lambda: list_videos_of_lists([], tmp_path / "nowhere"))
    assert said == f"{tmp_path}/nowhere is missing: name the folder of the videos"


def test_a_list_that_changes_meanwhile(listing, message, tmp_path):
    records = iter(listing({"val.txt": "1.mp4 a\n" * 9000}).records)
    next(records)
    with (tmp_path / "val.txt").open("r+") as file:
        file.seek(8 * 9000 - 2)
        file.write("b")
    assert message(lambda: type("", (), {"records": records})) == (
        f"{tmp_path}/val.txt row 9000: the label was not there before: has the file changed?"
    )


paths = st.text(max_size=8) | st.sampled_from(
    [
        "1.mp4",
        "2.mp4",
        "a/1.mp4",
        "/x/a/1.mp4",
        "../secret.mp4",
        "/",
        ".",
        "..",
        "\\",
        "C:\\",
        "\0",
        "x" * 300,
        "a\n",
        "#",
    ]
)
tokens = st.text(max_size=4) | st.sampled_from(["0", "1", "-1", "run", "a|b", "|", "3;4", "9" * 30])
times = st.sampled_from(["", "0", "1.5", "x", "nan", "1e999"])
rows = st.fixed_dictionaries(
    {
        "path": paths,
        "label": tokens,
        "split": st.sampled_from(["train", "val"]) | st.text(max_size=3),
        "start": times,
        "end": times,
    }
)
sound_rows = st.fixed_dictionaries(
    {
        "path": st.sampled_from(["1.mp4", "2.mp4", "a/1.mp4", "/x/a/1.mp4", "1.mkv", "\\", "C:\\", "x" * 300]),
        "label": st.sampled_from(["0", "1", "1|0"]),
        "split": st.sampled_from(["train", "val"]),
        "start": st.sampled_from(["", "0", "0.5"]),
    }
).map(lambda row: {**row, "end": row["start"] and "2"})


@given(
    st.lists(rows, max_size=4) | st.lists(sound_rows, min_size=1, max_size=8),
    st.sets(st.sampled_from(["split", "start", "end"])),
    st.sampled_from([",", ";", "\t"]),
)
def test_any_cells(folder, make, records, some, without, delimiter):
    text = io.StringIO()
    columns = [name for name in ("path", "label", "split", "start", "end") if name not in without]
    writer = csv.DictWriter(text, columns, extrasaction="ignore", delimiter=delimiter)
    writer.writeheader()
    writer.writerows(some)
    make(folder, {"videos/1.mp4": "", "videos/a/1.mp4": "", "videos/1.mkv": "", "secret.mp4": ""})
    files = make(folder, {"rows.csv": text.getvalue()})
    found = records(files, lambda: list_videos_of_lists(files, folder / "videos", val_fraction=0.5))
    # A row without a single letter, as spreadsheets leave them below a table, is none.
    assert found is None or len(found) == sum(any(row[name] for name in columns) for row in some)


@given(st.lists(st.tuples(paths, tokens), max_size=5), st.sampled_from([" ", "\t", ",", ";"]))
def test_any_lines(folder, make, records, some, between):
    make(folder, {"videos/1.mp4": "", "videos/a/1.mp4": ""})
    files = make(folder, {"val.txt": "\n".join(map(between.join, some))})
    records(files, lambda: list_videos_of_lists(files, folder / "videos"))


SOUND = "path,label,split\n1.mp4,run,train\n2.mp4,walk,val\n"


@given(st.binary() | st.tuples(st.integers(0, len(SOUND)), st.binary(max_size=4)))
def test_any_bytes(folder, make, records, change):
    """Also a sound file with a few bytes put in place of others."""
    if isinstance(change, tuple):
        at, put = change
        change = SOUND.encode()[:at] + put + SOUND.encode()[at + len(put) :]
    make(folder, {"videos/1.mp4": ""})
    files = make(folder, {"any.csv": change})
    records(files, lambda: list_videos_of_lists(files, folder / "videos"))
