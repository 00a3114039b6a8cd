import hashlib
import json
import os
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from preprocess.datasets.folder import list_folder
from preprocess.errors import DataError, UsageError
from preprocess.ffmpeg import EncodeOptions
from preprocess.index import read_dataset
from preprocess.local import write_shards_locally
from preprocess.run import BUILDING, preprocess

OPTIONS = EncodeOptions("64x48")


def tree(folder):
    """Names and sha256 of all files of a folder, folders by name."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "folder"
        for path in folder.rglob("*")
    }


def do(root, data, options=OPTIONS, val_fraction=0.5, shard_size=2, workers=2, listing=None, **callbacks):
    executor = partial(write_shards_locally, workers=workers)
    listing = listing or list_folder(root, val_fraction)
    return preprocess(listing, data, options, executor, shard_size=shard_size, **callbacks)


@pytest.fixture(scope="module")
def videos(video, tmp_path_factory):
    """Three classes of two videos: one class has no video that can be read."""
    root = tmp_path_factory.mktemp("videos")
    for name, sources in {"a": ["h264.mp4", "vfr.mkv"], "b": ["av1.webm", "one_frame.mp4"]}.items():
        (root / name).mkdir(parents=True)
        for source in sources:
            (root / name / source).write_bytes(video(source).read_bytes())
    (root / "c").mkdir()
    (root / "c" / "text.mp4").write_text("no video")
    whole = video("h264.mkv").read_bytes()
    (root / "c" / "half.mkv").write_bytes(whole[: len(whole) // 2])
    return root


@pytest.fixture(scope="module")
def finished(videos, tmp_path_factory):
    """``videos`` preprocessed by one worker. Not to be changed."""
    data = tmp_path_factory.mktemp("shards") / "finished"
    do(videos, data, workers=1)
    return data


@pytest.fixture(scope="module")
def unfinished(videos, tmp_path_factory):
    """What a run leaves that ends after its first video. Not to be changed."""
    data = tmp_path_factory.mktemp("shards") / "unfinished"

    class Stop(Exception):
        pass

    def stop(_):
        raise Stop

    with pytest.raises(Stop):
        do(videos, data, on_video=stop)
    assert not (data / "dataset.json").exists()
    return data


def test_dataset_is_complete(videos, finished):
    dataset = read_dataset(finished)
    assert dataset.classes == ("a", "b", "c")
    keys = {row.key for split in dataset.splits for row in dataset.split(split)}
    assert keys == {"a/h264", "a/vfr", "b/av1", "b/one_frame"}
    labels = {row.key: row.label for split in dataset.splits for row in dataset.split(split)}
    assert {dataset.classes[label] for key, label in labels.items() if key.startswith("b/")} == {"b"}
    rejected = [json.loads(line) for line in (finished / "rejected.jsonl").read_text().splitlines()]
    assert {row["source"]: row["reason"].partition(":")[0] for row in rejected} == {
        "c/half.mkv": "truncated",
        "c/text.mp4": "not readable as a video",
    }

    content = json.loads((finished / "dataset.json").read_text())
    assert content["rejected"] == 2
    listed = {"dataset.json", "rejected.jsonl", "train", "val"}
    digests = tree(finished)
    for split, about in content["splits"].items():
        assert about["index_sha256"] == digests[f"{split}/index.arrow"]
        listed.add(f"{split}/index.arrow")
        for shard in about["shards"]:
            assert shard["sha256"] == digests[f"{split}/{shard['name']}"]
            assert shard["bytes"] == (finished / split / shard["name"]).stat().st_size
            listed.add(f"{split}/{shard['name']}")
    assert set(digests) == listed


def test_workers_do_not_change_a_byte(videos, finished, tmp_path):
    started, taken = [], []
    data = tmp_path / "data"
    summary = do(
        videos, data, workers=3, on_start=lambda *counts: started.append(counts), on_video=lambda t: taken.append(t)
    )
    assert tree(data) == tree(finished)
    assert (started, sorted(taken)) == ([(6, 0)], [False, False, True, True, True, True])
    assert (summary.videos, summary.frames) == ({"train": 2, "val": 2}, 73)
    assert summary.size == sum(path.stat().st_size for path in data.rglob("*.tar"))
    assert summary.rejected == {"not readable as a video": 1, "truncated": 1}
    assert summary.notes == ("1 class(es) without a readable video: 'c'",)
    assert not summary.already_done
    assert "rejected 1: truncated" in summary.lines()


def test_complete_dataset_stays(videos, finished):
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("*")}
    summary = do(videos, finished)
    assert summary.already_done
    assert summary.lines()[-1].endswith("(already complete)")
    assert {path: path.stat().st_mtime_ns for path in finished.rglob("*")} == before


def test_timeout_and_workers_are_no_other_settings(videos, finished):
    assert do(videos, finished, EncodeOptions("64x48", timeout=1), workers=7).already_done


def test_unfinished_dataset_is_finished(videos, finished, unfinished, tmp_path):
    data = shutil.copytree(unfinished, tmp_path / "data")
    assert not do(videos, data).already_done
    assert tree(data) == tree(finished)


def test_what_a_run_leaves_that_is_killed_at_its_very_end(videos, finished, tmp_path):
    data = shutil.copytree(finished, tmp_path / "data")
    (data / BUILDING / "train").mkdir(parents=True)
    assert do(videos, data).already_done
    assert tree(data) == tree(finished)


def one_video_less(videos):
    listing = list_folder(videos, 0.5)
    return {"listing": replace(listing, records=listing.records[:-1])}


@pytest.mark.parametrize("state", ["finished", "unfinished"])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda _: {"options": EncodeOptions("80x48")}, "resize 64x48 then, 80x48 now"),
        (
            lambda _: {"options": EncodeOptions("64x48", quality=9), "shard_size": 3},
            "shard_size 2 then, 3 now; quality",
        ),
        (lambda _: {"val_fraction": 0.2}, r"val_fraction 0\.5 then, 0\.2 now"),
        (one_video_less, "videos 6 videos, .* then, 5 videos"),
    ],
)
def test_folder_of_other_settings_is_refused(videos, request, state, change, message):
    data = request.getfixturevalue(state)
    before = tree(data)
    with pytest.raises(DataError, match=f"was made otherwise .*{message}"):
        do(videos, data, **change(videos))
    assert tree(data) == before


def test_same_names_elsewhere_are_another_dataset(videos, finished, tmp_path):
    copy = shutil.copytree(videos, tmp_path / "videos")
    with pytest.raises(DataError, match=rf"was made otherwise \(source {videos} then, {copy} now\)"):
        do(copy, finished)


@pytest.mark.parametrize("program", ["v4d", "ffmpeg"])
def test_folder_of_another_version_is_refused(videos, finished, tmp_path, program):
    data = shutil.copytree(finished, tmp_path / "data")
    content = json.loads((data / "dataset.json").read_text())
    content["options"][program] = "0.0.1"
    (data / "dataset.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match=rf"was made otherwise \({program} 0\.0\.1 then"):
        do(videos, data)


@pytest.mark.parametrize(("name", "content"), [("thesis.txt", "dear"), ("dataset.json", '{"name": "other"}')])
def test_folder_of_something_else_is_refused(videos, tmp_path, name, content):
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=r"no v4d dataset|none of v4d's"):
        do(videos, tmp_path)
    assert list(tree(tmp_path)) == [name]


def test_file_in_place_of_the_folder(videos, tmp_path):
    (tmp_path / "data").write_text("")
    with pytest.raises(DataError, match=f"^Not a directory while writing {tmp_path / 'data'}: mend that"):
        do(videos, tmp_path / "data")


def test_who_reads_what_is_said_and_leaves_is_not_taken_for_a_fault_of_the_folder(videos, tmp_path):
    def nobody_reads(*_):
        raise BrokenPipeError

    with pytest.raises(BrokenPipeError):
        do(videos, tmp_path / "data", on_video=nobody_reads)


@pytest.mark.parametrize("inside", [".", "a", "shards", "a/../new"])
def test_folder_among_the_videos_is_refused(videos, inside):
    before = tree(videos)
    with pytest.raises(UsageError, match="where it would count as videos"):
        do(videos, videos / inside)
    assert tree(videos) == before


def test_folder_with_a_name_that_is_no_utf8_is_refused(videos, tmp_path):
    with pytest.raises(UsageError, match=r"data\\xff is no UTF-8, which Arrow cannot open"):
        do(videos, Path(os.fsdecode(os.fsencode(tmp_path) + b"/data\xff")))
    assert list(tmp_path.iterdir()) == []


def test_folder_with_an_awkward_name(videos, finished, tmp_path):
    data = tmp_path / "-new\nline 漢字 %d"
    do(videos, data)
    assert tree(data) == tree(finished)


def test_no_video_is_readable(videos, tmp_path):
    listing = list_folder(videos, 0.5)
    listing = replace(listing, records=tuple(r for r in listing.records if r.key.startswith("c/")))
    for _ in range(2):
        with pytest.raises(DataError, match=r"none of the 2 videos could be read: see .*rejected\.jsonl"):
            do(videos, tmp_path / "data", listing=listing)
        assert len((tmp_path / "data" / "rejected.jsonl").read_text().splitlines()) == 2
        assert not (tmp_path / "data" / "dataset.json").exists()
