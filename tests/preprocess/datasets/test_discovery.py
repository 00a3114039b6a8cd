from pathlib import Path

import pytest

from preprocess.datasets.discovery import Found, find_dataset
from preprocess.errors import UsageError

KINETICS = "label,youtube_id,time_start,time_end,split\na,x,1,2,train\n"
TRAIN = "/root/train/x.mp4 0\n"
JSON = '{"version": "1.3", "database": {}, "taxonomy": []}'


@pytest.fixture
def here(tmp_path, make, monkeypatch):
    """A function: puts files into the current folder; a name that ends in a slash is an empty folder."""
    monkeypatch.chdir(tmp_path)

    def put(files):
        for name in files:
            if name.endswith("/"):
                (tmp_path / name).mkdir(parents=True, exist_ok=True)
        make(tmp_path, {name: text for name, text in files.items() if not name.endswith("/")})

    return put


V1 = {f"something-something-v1-{role}.csv": "" for role in ("labels", "train", "validation", "test")}
V2 = {f"{role}.json": "" for role in ("labels", "train", "validation", "test")}


def below(folder, files):
    return {f"{folder}/{name}": text for name, text in files.items()}


CASES = [
    (
        "kinetics",
        {"data/kinetics400/annotations/train.csv": KINETICS, "data/kinetics400/annotations/val.csv": KINETICS}
        | {"data/kinetics400/annotations/other.csv": "a,b\n", "data/kinetics400/videos/": ""},
        (["data/kinetics400/annotations/train.csv", "data/kinetics400/annotations/val.csv"], "data/kinetics400/videos"),
        "kinetics400",
    ),
    (
        "kinetics",
        {"data/Kinetics/k.csv": '\ufeff"LABEL", "youtube_id"\r\n', "data/Kinetics/train/": ""},
        (["data/Kinetics/k.csv"], "data/Kinetics"),
        "Kinetics",
    ),
    (
        "kinetics",
        {"data/kinetics/annotations/k400/train.csv": KINETICS, "data/kinetics/videos/": ""},
        (["data/kinetics/annotations/k400/train.csv"], "data/kinetics/videos"),
        "kinetics",
    ),
    (
        "kinetics",
        {"kinetics/k400/train.csv": KINETICS, "kinetics/k400/videos/": "", "data/mini-kinetics/k.csv": KINETICS},
        (["kinetics/k400/train.csv"], "kinetics/k400/videos"),
        "kinetics",
    ),
    (
        "kinetics",
        {"k400/train.csv": KINETICS, "videos/": "", "mini_kinetics/k.csv": KINETICS},
        (["k400/train.csv"], "videos"),
        "kinetics",
    ),
    # data comes first.
    (
        "kinetics",
        {"data/kinetics/k.csv": KINETICS, "kinetics/k.csv": KINETICS, "k.csv": KINETICS},
        (["data/kinetics/k.csv"], "data/kinetics"),
        "kinetics",
    ),
    # A folder without annotations is none.
    ("kinetics", {"data/kinetics/x.csv": "a\n", "k.csv": KINETICS}, (["k.csv"], "."), "kinetics"),
    (
        "mini-kinetics",
        {"data/mini_kinetics/annotations/mini_train_list.txt": TRAIN, "data/mini_kinetics/videos/": ""}
        | {
            "data/mini_kinetics/annotations/label_converter.json": "{}",
            "data/mini_kinetics/annotations/k.csv": KINETICS,
        }
        | {"data/mini_kinetics/annotations/README.txt": "hello"},
        (
            [
                f"data/mini_kinetics/annotations/{name}"
                for name in ("mini_train_list.txt", "label_converter.json", "k.csv")
            ],
            "data/mini_kinetics/videos",
        ),
        "mini_kinetics",
    ),
    (
        "mini-kinetics",
        {"mini-kinetics/k.csv": KINETICS, "mini-kinetics/class_names.txt": "a\n", "mini-kinetics/notes.txt": b"\xff"},
        (["mini-kinetics/k.csv", "mini-kinetics/class_names.txt"], "mini-kinetics"),
        "mini-kinetics",
    ),
    (
        "something",
        below("data/something-v1/annotations", V1) | {"data/something-v1/20bn-something-something-v1/": ""},
        (
            [f"data/something-v1/annotations/{name}" for name in V1],
            "data/something-v1/20bn-something-something-v1",
        ),
        "something-v1",
    ),
    (
        "something",
        below("data/something/labels", V2) | {"data/something/videos/": "", "data/something/frames/": ""},
        ([f"data/something/labels/{name}" for name in V2], "data/something/videos"),
        "something",
    ),
    ("something", V2 | {"rawframes/": ""}, (list(V2), "rawframes"), "something"),
    (
        "activitynet",
        {"data/activitynet/activity_net.v1-3.min.json": "{}", "data/activitynet/videos/": ""},
        (["data/activitynet/activity_net.v1-3.min.json"], "data/activitynet/videos"),
        "activitynet",
    ),
    (
        "activitynet",
        {"ActivityNet/a.json": JSON, "ActivityNet/b.json": "{}"},
        (["ActivityNet/a.json"], "ActivityNet"),
        "ActivityNet",
    ),
]


@pytest.mark.parametrize(("kind", "files", "wanted", "name"), CASES)
def test_the_one_dataset(here, kind, files, wanted, name):
    here(files | {"data/.hidden/k.csv": KINETICS, "shards/kinetics/dataset.json": "{}"})
    annotations, videos = wanted
    assert find_dataset(kind) == Found(tuple(map(Path, annotations)), Path(videos), name)


@pytest.mark.parametrize(
    ("kind", "files", "listed"),
    [
        (
            "kinetics",
            {"data/kinetics400/k.csv": KINETICS, "data/kinetics600/annotations/k.csv": KINETICS},
            "data/kinetics400/k.csv; data/kinetics600/annotations/k.csv",
        ),
        (
            "kinetics",
            {"data/kinetics/400/k.csv": KINETICS, "data/kinetics/600/k.csv": KINETICS},
            "data/kinetics/400/k.csv; data/kinetics/600/k.csv",
        ),
        (
            "mini-kinetics",
            {"mini_kinetics/k.csv": KINETICS, "mini_kinetics/a.txt": "a\n", "mini_kinetics/b.txt": "b\n"},
            "mini_kinetics/k.csv, mini_kinetics/a.txt; mini_kinetics/k.csv, mini_kinetics/b.txt",
        ),
        (
            "something",
            dict.fromkeys(("labels.csv", "train.csv", "labels.json", "train.json"), ""),
            "labels.csv, train.csv; labels.json, train.json",
        ),
        (
            "activitynet",
            {"activitynet/1.json": JSON, "activitynet/2.json": JSON},
            "activitynet/1.json; activitynet/2.json",
        ),
    ],
)
def test_several(here, kind, files, listed):
    here(files)
    with pytest.raises(UsageError) as caught:
        find_dataset(kind)
    assert str(caught.value) == f"there are 2 {kind} datasets, choose with --annotations and --videos: {listed}"


@pytest.mark.parametrize(
    ("kind", "files", "wanted"),
    [
        ("kinetics", {"mini-kinetics/k.csv": KINETICS, "x.csv": "a"}, ".csv files with a column youtube_id"),
        (
            "mini-kinetics",
            {"data/mini-kinetics/c.json": "{}", "data/mini-kinetics/README.txt": "a"},
            "lists of lines like ID.mp4 186 in .txt files, or Kinetics .csv files with a .txt file of class names",
        ),
        (
            "something",
            {"labels.csv": "", "train.json": ""},
            "files whose names end in labels, train and validation, .csv or .json",
        ),
        ("activitynet", {"activitynet/x.json": "{}"}, "a .json file with taxonomy and database"),
    ],
)
def test_none(here, kind, files, wanted):
    here(files)
    with pytest.raises(UsageError) as caught:
        find_dataset(kind)
    assert str(caught.value) == (
        f"there is no {kind} dataset in data/{kind}*, {kind}* or here ({wanted}): put one in "
        f"data/{kind}/annotations and data/{kind}/videos, or name them with --annotations and --videos"
    )
