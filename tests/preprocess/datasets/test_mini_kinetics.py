import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from preprocess.datasets.mini_kinetics import list_mini_kinetics

TRAIN = "/root/train/-dash.mp4 0\n/root/train/two.mp4 1\n"
VAL = "/root/val/three.mp4 1\n"
CONVERTER = json.dumps({"2": 0, "0": 1})
CSV = "label,youtube_id,time_start,time_end,split\n"
KINETICS = CSV + "a,two,5,15,train\nb,other,1,2,train\nc,-dash,1,11,train\na,three,0,10,val\n"


@pytest.fixture
def listing(tmp_path, make):
    """A function: lists files by what they hold, among empty videos."""

    def list_them(files, videos=(), **options):
        make(tmp_path / "videos", {".keep": "", **dict.fromkeys(videos, "")})
        return list_mini_kinetics(make(tmp_path, files), tmp_path / "videos", **options)

    return list_them


def about(listing):
    return [(r.key, r.labels, r.split, r.problem, r.trim, r.source.name) for r in listing.records]


FILES = ["-dash.mp4", "train/two_000005_000015.mp4", "val/three.mkv"]


def test_lists_alone(listing, tmp_path):
    found = listing({"mini_train_list.txt": TRAIN, "mini_val_list.txt": VAL}, FILES, trim=True)
    assert (found.kind, found.root, found.classes) == ("mini-kinetics", tmp_path / "videos", ("class 0", "class 1"))
    assert about(found) == [
        ("-dash", (0,), "train", "", None, "-dash.mp4"),
        ("two", (1,), "train", "", None, "two_000005_000015.mp4"),
        ("three", (1,), "val", "", None, "three.mkv"),
    ]
    assert found.notes == [
        "the names of the classes are not known: name the converter and the Kinetics csv files too",
        "3 video(s) have no times in the annotations and are not trimmed",
    ]


def test_lists_and_converter(listing):
    found = listing({"train.txt": TRAIN, "c.json": CONVERTER})
    assert found.classes == ("kinetics class 2", "kinetics class 0")
    assert [problem for _, _, _, problem, _, _ in about(found)] == [
        "missing: -dash_START_END{.mp4,.mkv,.webm} or -dash{.mp4,.mkv,.webm}",
        "missing: two_START_END{.mp4,.mkv,.webm} or two{.mp4,.mkv,.webm}",
    ]
    assert found.notes == ["the names of the classes are not known: name the Kinetics csv files among the annotations"]


def test_lists_converter_and_kinetics(listing):
    files = {"train.txt": TRAIN, "val.txt": VAL, "c.json": CONVERTER, "k.csv": KINETICS}
    found = listing(files, FILES, trim=True)
    assert found.classes == ("c", "a")
    assert about(found) == [
        ("-dash_000001_000011", (0,), "train", "", (1, 11), "-dash.mp4"),
        ("two_000005_000015", (1,), "train", "", None, "two_000005_000015.mp4"),
        ("three_000000_000010", (1,), "val", "", (0, 10), "three.mkv"),
    ]
    assert found.notes == []


def test_folder_named_like_the_class_is_preferred(listing):
    files = {"train.txt": TRAIN, "c.json": CONVERTER, "k.csv": KINETICS}
    records = list(listing(files, ["b/two.mp4", "x/a/two.mkv"]).records)
    assert records[1].source.parts[-3:] == ("x", "a", "two.mkv")


def test_lists_and_names(listing):
    found = listing({"train.txt": TRAIN, "names.txt": "x\ny\nz\n"})
    assert (found.classes, found.notes) == (("x", "y", "z"), [])
    found = listing({"train.txt": TRAIN, "names.txt": "c\na\n", "c.json": CONVERTER, "k.csv": KINETICS})
    assert found.classes == ("c", "a")


def test_kinetics_and_names(listing):
    unlabelled = "youtube_id,time_start,time_end,split\nlast,1,2,test\n"
    files = {"k.csv": KINETICS, "test.csv": unlabelled, "names.txt": "c\na\n"}
    found = listing(files, FILES)
    assert (found.classes, found.notes) == (("c", "a"), [])
    assert [(key, labels, split) for key, labels, split, _, _, _ in about(found)] == [
        ("two_000005_000015", (1,), "train"),
        ("-dash_000001_000011", (0,), "train"),
        ("three_000000_000010", (1,), "val"),
    ]


def test_lines_of_all_kinds(listing):
    lines = (
        "\ufeff# a comment\r\n\r\nC:\\videos\\one.MP4\t0\r\n/with a space/two.mp4   1\r\nthree_000001_000011.mkv 0\r\n"
    )
    records = list(listing({"train.txt": lines}, ["one.mp4", "two.mp4", "three_000002_000012.mp4"]).records)
    assert [(record.key, record.labels, record.problem[:8]) for record in records] == [
        ("one", (0,), ""),
        ("two", (1,), ""),
        ("three_000001_000011", (0,), "missing:"),
    ]


def test_clip_of_the_same_split_and_label(listing):
    kinetics = CSV + "b,two,1,2,train\na,two,3,4,val\na,two,5,6,train\nc,x,1,2,val\n"
    files = {"train.txt": "two 1\n", "val.txt": "two 1\n", "c.json": CONVERTER, "k.csv": kinetics}
    assert [key for key, *_ in about(listing(files))] == ["two_000005_000006", "two_000003_000004"]


def test_listed_before(listing, tmp_path):
    records = list(listing({"train.txt": TRAIN + "two 0\n", "val.txt": "two 1\n"}, FILES).records)
    assert [(record.key, record.problem) for record in records[1:]] == [
        ("two", ""),
        ("two", f"listed before: {tmp_path}/train.txt row 2"),
        ("two", ""),
    ]


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"train.txt": "a.mp4 -1\n"}, "train.txt row 1: label is '-1', not a class from 0 to 99999: mend it"),
        ({"train.txt": "a.mp4 0\n/b.mp4 x\n"}, "train.txt row 2: label is 'x', not a class from 0 to 99999: mend it"),
        ({"train.txt": "a.mp4 0\nb.mp4\n"}, "train.txt row 2: is no video with its label, as in ID.mp4 186: mend it"),
        ({"train.txt": "a.mp4 0\n/b/ 3\n"}, "train.txt row 2: is no video with its label, as in ID.mp4 186: mend it"),
        ({"train.txt": "a.mp4 0\na_000002_000001.mp4 0"}, "train.txt row 2: from 2 to 1 is no time: mend it"),
        (
            {"train.txt": "a.mp4 0\n" + "_000000" * 9999 + " 1"},
            "train.txt row 2: is no video with its label, as in ID.mp4 186: mend it",
        ),
        ({"list.txt": "a.mp4 0\n"}, "list.txt: its name has no word train, val or test: rename it"),
        (
            {"train.txt": TRAIN, "c.json": '{"7": 0}'},
            "train.txt row 2: label is '1', not a class from 0 to 0: mend it",
        ),
        ({"train.txt": TRAIN, "a.json": "{}", "b.json": "{}"}, "a.json, {0}/b.json: name one converter"),
        ({"a.txt": "x\n", "b.txt": "y\n"}, "a.txt, {0}/b.txt: name one file of class names"),
        (
            {"names.txt": "x\n"},
            "names.txt: neither lists of videos, nor Kinetics csv files with a file of class names: name those",
        ),
        (
            {"names.txt": "c\nx\n", "k.csv": KINETICS},
            "names.txt row 2: 'x' is no class of the Kinetics csv files: mend it",
        ),
        (
            {"train.txt": TRAIN, "names.txt": "c\nx\n", "k.csv": KINETICS},
            "names.txt row 2: 'x' is no class of the Kinetics csv files: mend it",
        ),
        (
            {"train.txt": TRAIN, "names.txt": "c\nb\n", "c.json": CONVERTER, "k.csv": KINETICS},
            "names.txt row 2: class 1 is 'b', but 'a' by {0}/c.json: mend one of them",
        ),
        (
            {"train.txt": TRAIN, "names.txt": "c\na\nb\n", "c.json": CONVERTER},
            "names.txt has 3 names, {0}/c.json 2 classes: mend one",
        ),
        (
            {"train.txt": TRAIN, "c.json": CONVERTER, "k.csv": CSV + "a,two,5,15,train\n"},
            "c.json class '2': the Kinetics csv files have 1 classes: name those of all of Kinetics",
        ),
        (
            {"train.txt": TRAIN, "c.json": CONVERTER, "k.csv": KINETICS.replace("a,two", "b,two")},
            "train.txt row 2: label 1 is 'a', but two is 'b' by {0}/k.csv row 2: mend one of them",
        ),
    ],
)
def test_faults(listing, message, tmp_path, files, said):
    assert message(lambda: listing(files)) == f"{tmp_path}/{said.format(tmp_path)}"


@pytest.mark.parametrize(
    ("converter", "said"),
    [
        ("[]", ' is no object of Kinetics class to class, as in {"18": 0}: mend it'),
        ("{}", ' is no object of Kinetics class to class, as in {"18": 0}: mend it'),
        ('{"0": 1, "1": 1}', " class '1': leads to class 1, as class '0' does: mend it"),
        ('{"0": 0, "1": 2}', " class '1': leads to no class from 0 to 1: mend it"),
        ('{"0": 0, "1": true}', " class '1': leads to no class from 0 to 1: mend it"),
        ('{"0": 0, "1": "1"}', " class '1': leads to no class from 0 to 1: mend it"),
        ('{"0": 0, "00": 1}', " class '00': is there twice: mend it"),
        ('{"-1": 0, "1": 1}', " class '-1': label is '-1', not a class from 0 to 99999: mend it"),
        ('{"0": 0, "0": 1}', " is no JSON (it has '0' twice in one object): mend it"),
    ],
)
def test_faults_of_the_converter(listing, message, tmp_path, converter, said):
    assert message(lambda: listing({"train.txt": "a.mp4 0\n", "c.json": converter})) == f"{tmp_path}/c.json{said}"


def test_no_annotations(listing, message, tmp_path):
    said = "no file: neither lists of videos, nor Kinetics csv files with a file of class names: name those"
    assert message(lambda: listing({})) == said
    assert message(lambda: list_mini_kinetics([], tmp_path / "x")).endswith(
        "x is missing: name the folder of the videos"
    )


SOUND = {"train.txt": TRAIN, "c.json": CONVERTER, "k.csv": KINETICS, "names.txt": "c\na\n"}


@given(st.sampled_from(sorted(SOUND)), st.binary() | st.tuples(st.integers(0, 90), st.binary(max_size=4)))
def test_any_bytes(folder, make, records, name, change):
    """Each file in turn holds anything, or what it should with a few bytes put in place of others."""
    if isinstance(change, tuple):
        at, put = change
        change = SOUND[name].encode()[:at] + put + SOUND[name].encode()[at + len(put) :]
    make(folder, {"videos/two.mp4": ""})
    files = make(folder, {**SOUND, name: change})
    records(files, lambda: list_mini_kinetics(files, folder / "videos", trim=True))


values = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 3) | st.floats() | st.text(max_size=3), st.lists, max_leaves=4
)


@given(st.dictionaries(st.sampled_from(["0", "1", "2"]) | st.text(max_size=3), values, max_size=3) | values)
def test_any_converter(folder, make, records, converter):
    make(folder, {"videos/two.mp4": ""})
    files = make(folder, {"train.txt": TRAIN, "k.csv": KINETICS, "c.json": json.dumps(converter)})
    records(files, lambda: list_mini_kinetics(files, folder / "videos"))


lines = st.text(max_size=12) | st.tuples(
    st.sampled_from(["/root/train/two.mp4", "../../two", "/etc/passwd", "\0", "..", "two_000001_000002", "a b"]),
    st.sampled_from(["0", "1", "2", "-1", "x", "9" * 30]),
).map(" ".join)


@given(st.lists(lines, max_size=4).map("\n".join))
def test_any_lines(folder, make, records, text):
    make(folder, {"videos/two.mp4": ""})
    files = make(folder, {"train.txt": text})
    for found in records(files, lambda: list_mini_kinetics(files, folder / "videos")) or []:
        assert found.problem or found.source == folder / "videos" / "two.mp4"
