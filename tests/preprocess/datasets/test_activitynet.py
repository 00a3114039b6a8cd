import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from preprocess.datasets.activitynet import list_activitynet

TAXONOMY = [
    {"nodeName": "Root", "parentName": None, "nodeId": 0},
    {"nodeName": "Sports", "parentName": "Root", "nodeId": 1},
    {"nodeName": "Polo", "parentName": "Sports", "nodeId": 2},
    {"nodeName": "Archery", "parentName": "Sports", "nodeId": 3},
]


def video(subset="training", *annotations, **more):
    annotations = [{"label": label, "segment": segment} for label, segment in annotations]
    return {"subset": subset, "duration": 10.0, "url": "", "annotations": annotations, **more}


def document(database, taxonomy=TAXONOMY):
    return json.dumps({"version": "VERSION 1.3", "taxonomy": taxonomy, "database": database})


@pytest.fixture
def listing(tmp_path, make):
    """A function: lists a JSON text among empty videos."""

    def list_it(text, videos=()):
        make(tmp_path / "videos", {".keep": "", **dict.fromkeys(videos, "")})
        return list_activitynet(*make(tmp_path, {"a.json": text}), tmp_path / "videos")

    return list_it


def test_videos(listing, tmp_path):
    database = {
        "-dash": video("training", ("Polo", [1, 2.5]), ("Archery", [3.0, 4.0]), ("Polo", [5, 6])),
        "two": video("validation", ("Polo", [0, 1])),
        "three": video("testing"),
    }
    found = listing(document(database), ["v_-dash.mp4", "x/two.mkv", "v_three.webm", "three.mp4"])
    assert (found.kind, found.root, found.classes) == ("activitynet", tmp_path / "videos", ("Archery", "Polo"))
    records = list(found.records)
    assert [(r.key, r.labels, r.split, r.source.name, r.problem) for r in records] == [
        ("-dash", (0, 1), "train", "v_-dash.mp4", ""),
        ("two", (1,), "val", "two.mkv", ""),
        ("three", (), "test", "v_three.webm", ""),
    ]
    assert records[0].segments == ((1, 1.0, 2.5), (0, 3.0, 4.0), (1, 5.0, 6.0))
    assert [(record.segments, record.trim) for record in records[1:]] == [(((1, 0.0, 1.0),), None), ((), None)]
    assert found.notes == []


def test_testing_rows_have_no_labels(listing):
    (record,) = listing(document({"x": video("testing", ("unknown", "?"))}), ["x.mp4"]).records
    assert (record.labels, record.segments, record.problem) == ((), (), "")
    (record,) = listing(document({"x": {"subset": "testing"}}), ["x.mp4"]).records
    assert (record.labels, record.problem) == ((), "")


def test_segments_that_end_before_they_begin(listing, tmp_path):
    database = {
        "x": video("training", ("Polo", [2, 2]), ("Archery", [3, 4]), ("Polo", [9, 1])),
        "y": video("validation", ("Polo", [1, 0])),
    }
    found = listing(document(database), ["x.mp4", "y.mp4"])
    assert [(r.labels, r.segments) for r in found.records] == [((0, 1), ((0, 3.0, 4.0),)), ((1,), ())]
    assert found.notes == [f"{tmp_path}/a.json: 3 segment(s) that do not end after they begin left out"]


def test_problems(listing):
    found = listing(document({"x": video(), "y": video("training", ("Polo", [0, 1])), "../z": video()}), ["x.mp4"])
    assert [record.problem for record in found.records] == [
        "unlabelled: a video without an annotation",
        "missing: v_y{.mp4,.mkv,.webm} or y{.mp4,.mkv,.webm}",
        "missing: v_../z{.mp4,.mkv,.webm} or ../z{.mp4,.mkv,.webm}",
    ]


ONE = ("Polo", [0, 1])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[]", " is a list, not an object with taxonomy and database: mend it"),
        ("{}", ": taxonomy is null, not a list of nodes: mend it"),
        (document({}, taxonomy=[]), ": taxonomy has no leaf, hence no class: mend it"),
        (document({}, taxonomy=["x"]), " taxonomy node 1: is 'x', not an object: mend it"),
        (document({}, taxonomy=[TAXONOMY[0], {}]), " taxonomy node 2: nodeName is null, not a text: mend it"),
        (
            document({}, taxonomy=[{"nodeName": "a", "parentName": 3}]),
            " taxonomy node 1: parentName is a whole number, not a text: mend it",
        ),
        (document({}), ": database is an object, not an object of videos: mend it"),
        (document([]), ": database is a list, not an object of videos: mend it"),
        (document({"x": []}), " id 'x': is a list, not an object with a subset: mend it"),
        (document({"": video()}), " id '': the id is '', not a text: mend it"),
        (document({"\ud800": video()}), " id '\\ud800': the id is '\\ud800', which is no Unicode text: mend it"),
        (document({"x": {}}), " id 'x': subset is null, not a text: mend it"),
        (document({"x": video("holdout")}), " id 'x': subset is 'holdout', no name of a split: mend it"),
        (document({"x": {"subset": "training"}}), " id 'x': annotations is null, not a list: mend it"),
        (
            document({"x": {"subset": "training", "annotations": [1]}}),
            " id 'x': an annotation is a whole number, not an object: mend it",
        ),
        (document({"x": video("training", (1, [0, 1]))}), " id 'x': label is a whole number, not a text: mend it"),
        (
            document({"x": video("training", ("Sports", [0, 1]))}),
            " id 'x': label 'Sports' is no leaf of the taxonomy: mend it",
        ),
        (
            document({"x": video("training", ("Polo", [0]))}),
            " id 'x': segment is a list, not a start and an end: mend it",
        ),
        (
            document({"x": video("training", ("Polo", None))}),
            " id 'x': segment is null, not a start and an end: mend it",
        ),
        (
            document({"x": video("training", ("Polo", [True, 2]))}),
            " id 'x': a time of a segment is true, not a number: mend it",
        ),
        (
            document({"x": video("training", ("Polo", ["0", 2]))}),
            " id 'x': a time of a segment is '0', not a number: mend it",
        ),
        (
            document({"x": video("training", ("Polo", [0, 10**400]))}),
            " id 'x': a time of a segment is not finite: mend it",
        ),
        (
            document({"x": video("training", ("Polo", [0, 7]))}).replace("7", "1e999"),
            " id 'x': a time of a segment is not finite: mend it",
        ),
        (document({"x": video("training", ("Polo", [0, float("nan")]))}), " is no JSON (it holds NaN): mend it"),
        ('{"database": {"x": 1, "x": 2}}', " is no JSON (it has 'x' twice in one object): mend it"),
    ],
)
def test_faults(listing, message, tmp_path, text, said):
    assert message(lambda: listing(text)) == f"{tmp_path}/a.json{said}"


def test_no_folder_of_videos(message, tmp_path, make):
    (path,) = make(tmp_path, {"a.json": document({"x": video()})})
    said = message(lambda: list_activitynet(path, tmp_path / "nowhere"))
    assert said == f"{tmp_path}/nowhere is missing: name the folder of the videos"


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=5,
)
times = st.integers() | st.floats() | values
labels = st.sampled_from(["Polo", "Archery", "Sports", "\ud800"]) | values
annotations = st.fixed_dictionaries({"label": labels, "segment": st.lists(times, min_size=2, max_size=2) | values})
ids = st.sampled_from(["x", "../secret", "/etc/passwd", "..", "", "\0", "\ud800", "-x", "x" * 300]) | st.text()
subsets = st.sampled_from(["training", "validation", "testing"])
videos = st.fixed_dictionaries({"subset": subsets | values, "annotations": st.lists(annotations) | values})
sound = st.fixed_dictionaries(
    {
        "subset": subsets,
        "annotations": st.lists(
            st.fixed_dictionaries(
                {"label": st.just("Polo"), "segment": st.tuples(st.integers(0, 9), st.floats(0, 9)).map(list)}
            )
        ),
    }
)


@given(st.dictionaries(ids, sound | videos | values, max_size=3) | values)
def test_any_database(folder, make, records, database):
    make(folder, {"videos/x.mp4": "", "secret.mp4": ""})
    files = make(folder, {"a.json": document(database)})
    for found in records(files, lambda: list_activitynet(files[0], folder / "videos")) or []:
        assert found.problem or found.source == folder / "videos" / "x.mp4"
        assert all(start < end for _, start, end in found.segments)


nodes = st.fixed_dictionaries({"nodeName": labels, "parentName": labels | st.none()})


@given(st.lists(nodes | values, max_size=4) | values)
def test_any_taxonomy(folder, make, records, taxonomy):
    make(folder, {"videos/x.mp4": ""})
    files = make(folder, {"a.json": document({"x": video("training", ONE)}, taxonomy)})
    records(files, lambda: list_activitynet(files[0], folder / "videos"))


SOUND = document({"x": video("training", ONE), "y": video("testing")})


@given(st.binary() | st.tuples(st.integers(0, len(SOUND)), st.binary(max_size=4)))
def test_any_bytes(folder, make, records, change):
    """Also a sound file with a few bytes put in place of others."""
    if isinstance(change, tuple):
        at, put = change
        change = SOUND.encode()[:at] + put + SOUND.encode()[at + len(put) :]
    make(folder, {"videos/x.mp4": ""})
    files = make(folder, {"a.json": change})
    records(files, lambda: list_activitynet(files[0], folder / "videos"))
