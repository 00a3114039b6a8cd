"""What all of ``v4d preprocess`` have in common: ``--dry-run``, ``--json``, and names of any letters."""

import json
import os

import pytest

from preprocess.index import read_dataset
from tests.preprocess.work import about, rejected, say_json, taken

CSV = "label,youtube_id,time_start,time_end,split\n"


@pytest.fixture
def kinetics(work):
    """Six videos, of which one cannot be read, and twelve that are missing."""
    rows = [f"a,t{i},0,10,train\n" for i in range(4)] + ["b,v0,0,10,val\n", "b,v1,0,10,val\n"]
    rows += [f"b,gone{i},0,10,{'train' if i < 11 else 'val'}\n" for i in range(12)]
    work.put({"data/kinetics/k.csv": CSV + "".join(rows)})
    videos = [*(f"t{i}.mp4" for i in range(4)), "v0.mp4"]
    work.put({**dict.fromkeys(videos, "h264.mp4"), "v1.mp4": "no video"}, "data/kinetics/videos")
    return work


def test_dry_run_says_what_there_is_and_writes_nothing(kinetics):
    before = kinetics.tree()
    said = kinetics.preprocess("kinetics", "--dry-run").stdout.splitlines()
    assert said[0] == "annotations data/kinetics/k.csv, videos data/kinetics/videos, dataset shards/kinetics"
    assert said[1:4] == ["found 4 train, 2 val; missing 12", "missing in train: 11", "missing in val: 1"]
    assert said[4] == "  missing: gone0_000000_000010{.mp4,.mkv,.webm} or gone0{.mp4,.mkv,.webm}"
    assert said[14] == "  and 2 more (--json lists all)"
    assert said[15].startswith("tried 6 videos (1 would be rejected): ")
    assert " hours and 0.00 GB; " in said[15]
    assert len(said) == 16
    assert kinetics.tree() == before
    assert not (kinetics.root / "shards").exists()


def test_dry_run_as_json_is_one_object_with_all_that_is_missing(kinetics):
    before = kinetics.tree()
    (said,) = say_json(kinetics.preprocess("kinetics", "--dry-run", "--json"))
    assert kinetics.tree() == before
    assert said["event"] == "estimate"
    assert said["videos"] == {"train": 4, "val": 2}
    assert (said["tried"], said["rejected"], said["notes"]) == (6, 1, [])
    assert said["hours"] == pytest.approx(6 / said["videos_per_second"] / 3600)
    assert said["bytes_free"] > said["bytes"] > 5000
    assert [(about["key"], about["split"]) for about in said["missing"]] == [
        (f"gone{i}_000000_000010", "train" if i < 11 else "val") for i in range(12)
    ]
    assert all(about["reason"].startswith("missing: gone") for about in said["missing"])


def test_dry_run_of_some(kinetics):
    (said,) = say_json(kinetics.preprocess("kinetics", "--dry-run", "--json", "--split", "val"))
    assert (said["videos"], [about["key"] for about in said["missing"]]) == ({"val": 2}, ["gone11_000000_000010"])
    (said,) = say_json(kinetics.preprocess("kinetics", "--dry-run", "--json", "--limit", 3))
    assert (sum(said["videos"].values()), said["tried"], said["missing"]) == (3, 3, [])


def test_every_line_of_json_is_an_event_and_the_last_one_has_the_counts(kinetics):
    data = kinetics.root / "shards" / "kinetics"
    first, *between, last = say_json(kinetics.preprocess("kinetics", "--json"))
    assert first == {"event": "start", "videos": 6, "done": 0}
    assert {event["event"] for event in between} <= {"progress"}
    assert last["event"] == "summary"
    assert last["data"] == "shards/kinetics"
    splits = about(data)["splits"]
    assert last["videos"] == {split: splits[split]["videos"] for split in splits} == {"train": 4, "val": 1}
    assert last["frames"] == sum(splits[split]["frames"] for split in splits) == 150
    assert last["size"] == sum(path.stat().st_size for path in data.glob("*/*.tar"))
    assert last["rejected"] == {"missing": 12, "not readable as a video": 1}
    assert sum(last["rejected"].values()) == about(data)["rejected"] == len(rejected(data))
    assert len(taken(data)) == 5
    assert not last["already_done"]

    first, last = say_json(kinetics.preprocess("kinetics", "--json"))
    assert first == {"event": "start", "videos": 6, "done": 6}
    assert (last["event"], last["already_done"], last["videos"]) == ("summary", True, {"train": 4, "val": 1})


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("--videos", "nowhere"), 1, "nowhere is missing: name the folder of the videos"),
        (("--max-missing", "0.5"), 1, "12 of the 18 listed videos are missing"),
        (("--split", "test"), 1, "list no videos in test"),
        (("--quality", "1"), 2, "quality 1 is not from 2 (best) to 31, as mjpeg has"),
    ],
)
def test_with_json_an_error_is_still_a_line_on_standard_error(kinetics, arguments, code, says):
    run = kinetics.preprocess("kinetics", "--json", *arguments, code=code)
    assert says in run.stderr
    assert run.stdout == ""
    assert not (kinetics.root / "shards").exists()


@pytest.mark.parametrize("encoding", ["utf-8:strict", "ascii:strict"])
def test_names_are_printed_whatever_the_locale(work, encoding):
    """Also a folder whose name is no text at all."""
    name = b"\xff\xe9\n\xe6\xbc\xa2".decode(errors="surrogateescape")
    work.put({f"{name}/ü/1.mp4": "one_frame.mp4"})
    (work.root / name / "漢字").mkdir()
    options = ("folder", "--videos", name, "--out", "ü", "--resize", "64x48", "--workers", 1)
    environment = {**os.environ, "PYTHONIOENCODING": encoding}
    run = work.in_a_process(*options, env=environment)
    assert (run.returncode, run.stderr) == (0, "")
    assert run.stdout.startswith("videos \\xff\\xe9\\n")
    assert len(run.stdout.splitlines()) == 4
    assert read_dataset(work.root / "ü").classes == ("ü", "漢字")
    run = work.in_a_process(*options, "--json", env=environment)
    assert (run.returncode, run.stderr) == (0, "")
    assert [json.loads(line) for line in run.stdout.splitlines()][-1]["notes"][0] == "class '漢字' holds no file"
