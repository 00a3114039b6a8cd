import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from preprocess.datasets.something import list_something

V1 = {
    "something-something-v1-labels.csv": "Pushing it\nLifting, it\n",
    "something-something-v1-train.csv": "12;Lifting, it\n3;Pushing it\n",
    "something-something-v1-validation.csv": "12;Pushing it\n",
    "something-something-v1-test.csv": "7\n",
}
V2 = {
    "labels.json": json.dumps({"Pushing something": "1", "Lifting something up": "0"}),
    "train.json": json.dumps(
        [
            {"id": "12", "label": "pushing a cup", "template": "Pushing [something]", "placeholders": ["a cup"]},
            {"id": "3", "label": "lifting a cup up", "template": "Lifting [something] up", "placeholders": ["a cup"]},
        ]
    ),
    "something-something-v2-validation.json": json.dumps([{"id": "12", "template": "Lifting [something] up"}]),
    "test.json": json.dumps([{"id": "7"}]),
}


@pytest.fixture
def listing(tmp_path, make):
    """A function: lists files by what they hold, among empty videos."""

    def list_them(files, videos=()):
        make(tmp_path / "videos", {".keep": "", **dict.fromkeys(videos, "")})
        return list_something(make(tmp_path, files), tmp_path / "videos")

    return list_them


def about(listing):
    return [(r.key, r.labels, r.split, r.problem, r.source.name, r.frame_rate) for r in listing.records]


def test_version_1(listing, tmp_path):
    found = listing(V1, ["12/00001.jpg", "7/00001.jpg", "3"])
    assert (found.kind, found.root) == ("something", tmp_path / "videos")
    assert (found.classes, found.notes) == (("Pushing it", "Lifting, it"), [])
    assert about(found) == [
        ("12", (1,), "train", "", "12", 12),
        ("3", (0,), "train", "missing: folder 3", "3", 12),
        ("12", (0,), "val", "", "12", 12),
        ("7", (), "test", "", "7", 12),
    ]


def test_folder_of_pictures_may_be_a_link(listing, tmp_path):
    (tmp_path / "videos").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "videos" / "3").symlink_to("../elsewhere")
    (tmp_path / "videos" / "12").symlink_to("../nowhere")
    assert [problem for _, _, _, problem, _, _ in about(listing(V1))][:2] == ["missing: folder 12", ""]


def test_version_2(listing):
    found = listing(V2, ["12.webm", "deep/7.mp4"])
    assert found.classes == ("Lifting something up", "Pushing something")
    assert about(found) == [
        ("12", (1,), "train", "", "12.webm", 0),
        ("3", (0,), "train", "missing: 3{.mp4,.mkv,.webm}", "3", 0),
        ("12", (0,), "val", "", "12.webm", 0),
        ("7", (), "test", "", "7.mp4", 0),
    ]


def test_listed_before(listing, tmp_path):
    rows = "1;Pushing it\n\n2;Pushing it\n1;Lifting, it\n2;Pushing it\n"
    files = {"labels.csv": V1["something-something-v1-labels.csv"], "train.csv": rows}
    assert [(key, problem) for key, _, _, problem, _, _ in about(listing(files, ["1/1.jpg"]))] == [
        ("1", ""),
        ("2", "missing: folder 2"),
        ("1", f"listed before: {tmp_path}/train.csv row 1"),
        ("2", f"listed before: {tmp_path}/train.csv row 3"),
    ]
    files = {"labels.json": V2["labels.json"], "test.json": '[{"id": "1"}, {"id": "1"}]'}
    assert [r.problem for r in listing(files, ["1.webm"]).records] == [
        "",
        f"listed before: {tmp_path}/test.json entry 1",
    ]


LABELS = {"labels.json": V2["labels.json"]}
CSV_LABELS = {"labels.csv": "a\nb\n"}
FAULTS = [
    ({}, "no file: name the csv files of version 1, or the json files of version 2"),
    (
        {"labels.csv": "a\n", "train.json": "[]"},
        "{0}/labels.csv, {0}/train.json: name the csv files of version 1, or the json files of version 2",
    ),
    (CSV_LABELS, "{0}/labels.csv: name one file of labels, and those of the splits, as in train and validation"),
    (
        {"train.csv": "1;a\n"},
        "{0}/train.csv: name one file of labels, and those of the splits, as in train and validation",
    ),
    ({**CSV_LABELS, "x.csv": "1;a\n"}, "{0}/x.csv: its name has no word train, validation or test: rename it"),
    ({**CSV_LABELS, "train.csv": "1;a\n2;c\n"}, "{0}/train.csv row 2: 'c' is none of the labels: mend it"),
    ({**CSV_LABELS, "train.csv": "1;a\n2\n"}, "{0}/train.csv row 2: has no label after a semicolon: mend it"),
    ({**CSV_LABELS, "train.csv": "1;a\n;b\n"}, "{0}/train.csv row 2: the id is empty: mend it"),
    ({**CSV_LABELS, "train.csv": ""}, "{0}/train.csv is empty: name another file"),
    ({"labels.csv": "a\na\n", "train.csv": ""}, "{0}/labels.csv row 2: 'a' is listed before, in row 1: mend it"),
    ({**LABELS, "train.json": "{}"}, "{0}/train.json is an object, not a list of videos: mend it"),
    ({**LABELS, "train.json": "[]"}, "{0}/train.json lists no video: name another file"),
    ({**LABELS, "train.json": "[1]"}, "{0}/train.json entry 1: is a whole number, not an object with an id: mend it"),
    (
        {**LABELS, "test.json": '[{"id": "1"}, {"id": 2}]'},
        "{0}/test.json entry 2: id is a whole number, not a text: mend it",
    ),
    ({**LABELS, "train.json": '[{"id": "1"}]'}, "{0}/train.json entry 1: template is null, not a text: mend it"),
    (
        {**LABELS, "train.json": '[{"id": "1", "template": "[x]"}]'},
        "{0}/train.json entry 1: 'x' is none of the labels: mend it",
    ),
    (
        {**LABELS, "test.json": '[{"id": "\\ud800"}]'},
        "{0}/test.json entry 1: id is '\\ud800', which is no Unicode text: mend it",
    ),
    ({"labels.json": "[]", "test.json": ""}, "{0}/labels.json is a list, not an object of label to number: mend it"),
    ({"labels.json": "{}", "test.json": ""}, "{0}/labels.json holds no label: name another file"),
    (
        {"labels.json": '{"a": "0", "b": "0"}', "test.json": ""},
        "{0}/labels.json label 'b': has the number 0, as 'a' has: mend it",
    ),
    (
        {"labels.json": '{"a": "0", "b": "2"}', "test.json": ""},
        "{0}/labels.json label 'b': label is '2', not a class from 0 to 1: mend it",
    ),
    (
        {"labels.json": '{"a": 5}', "test.json": ""},
        "{0}/labels.json label 'a': number is a whole number, not a text: mend it",
    ),
]


@pytest.mark.parametrize(("files", "said"), FAULTS)
def test_faults(listing, message, tmp_path, files, said):
    assert message(lambda: listing(files)) == said.replace("{0}", str(tmp_path))


def test_no_folder_of_videos(message, tmp_path, make):
    said = message(lambda: list_something(make(tmp_path, V1), tmp_path / "nowhere"))
    assert said == f"{tmp_path}/nowhere is missing: name the folder of the videos"


ids = st.sampled_from(["12", "../secret", "/etc", "..", ".", "", "a/b", "\0", "\ud800", "x" * 300, "12 "]) | st.text()
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=5,
)
entries = st.fixed_dictionaries({"id": ids | values, "template": st.just("Pushing [something]") | values})


@given(st.lists(st.fixed_dictionaries({"id": ids}) | entries | values, max_size=3) | values)
def test_any_entries(folder, make, records, content):
    make(folder, {"videos/12.webm": "", "secret.webm": ""})
    for name in ("train.json", "test.json"):
        files = make(folder, {**LABELS, name: json.dumps(content)})
        for found in records(files, lambda files=files: list_something(files, folder / "videos")) or []:
            assert found.problem or found.source == folder / "videos" / "12.webm"


@given(st.dictionaries(st.text(max_size=3) | st.just("\ud800"), st.sampled_from(["0", "1", 0, 1]) | values) | values)
def test_any_labels(folder, make, records, content):
    make(folder, {"videos/12.webm": ""})
    files = make(folder, {"labels.json": json.dumps(content), "test.json": V2["test.json"]})
    records(files, lambda: list_something(files, folder / "videos"))


@given(st.lists(st.tuples(ids.filter(lambda name: name != "\ud800"), st.sampled_from(["a", "b", "c", ""]))))
def test_any_lines(folder, make, records, rows):
    make(folder, {"frames/12/1.jpg": "", "secret/1.jpg": ""})
    files = make(folder, {**CSV_LABELS, "train.csv": "\n".join(map(";".join, rows))})
    for found in records(files, lambda: list_something(files, folder / "frames")) or []:
        assert found.problem or found.source == folder / "frames" / "12"


@given(st.sampled_from([*V1, *V2]), st.binary() | st.tuples(st.integers(0, 90), st.binary(max_size=4)))
def test_any_bytes(folder, make, records, name, change):
    """Each file in turn holds anything, or what it should with a few bytes put in place of others."""
    sound = V1 if name in V1 else V2
    if isinstance(change, tuple):
        at, put = change
        change = sound[name].encode()[:at] + put + sound[name].encode()[at + len(put) :]
    make(folder, {"videos/12.webm": "", "videos/12/1.jpg": ""})
    files = make(folder, {**sound, name: change})
    records(files, lambda: list_something(files, folder / "videos"))
