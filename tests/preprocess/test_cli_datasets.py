"""``v4d preprocess`` of each dataset as a person types it, in a work folder laid out as people lay them out."""

import json

import pytest

from tests.preprocess.work import about, brief, fps, rejected, taken

CSV = "label,youtube_id,time_start,time_end,split\n"


@pytest.mark.parametrize(
    ("command", "wanted"),
    [
        ("kinetics", ".csv files with a column youtube_id"),
        ("mini-kinetics", "lists of lines like ID.mp4 186 in .txt files"),
        ("something", "files whose names end in labels, train and validation, .csv or .json"),
        ("activitynet", "a .json file with taxonomy and database"),
    ],
)
def test_an_empty_work_folder_gets_a_line_that_says_what_to_put_where(work, command, wanted):
    said = work.preprocess(command, code=2).stderr
    assert said.startswith(f"v4d: there is no {command} dataset in data/{command}*, {command}* or here ({wanted}")
    assert f"put one in data/{command}/annotations and data/{command}/videos, or name them with --annotations" in said
    assert work.tree() == {}


def test_list_needs_to_be_told_which(work):
    assert "Missing option '--annotations'" in work.preprocess("list", code=2).stderr
    assert work.tree() == {}


def test_kinetics_in_every_layout_there_is(work):
    work.put(
        {
            "train.csv": '"label","youtube_id","time_start","time_end","split","is_cc"\n'
            '"riding a bike","-dash_id","1","11","train","0"\n'
            '"riding a bike","under__sc_","0","10","train","1"\n'
            '"playing chess, fast","chess","7","17","train","0"\n'
            '"playing chess, fast","spoilt","0","10","train","0"\n'
            '"playing chess, fast","bare_mp4","0","10","train","0"\n'
            '"abseiling","-_bare-mkv","0","10","train","0"\n'
            '"abseiling","bare_webm","0","10","train","0"\n'
            '"abseiling","v_whole","0","10","train","0"\n'
            '"abseiling","other_time","0","10","train","0"\n'
            '"abseiling","gone","3","13","train","0"\n',
            # Without is_cc, and "validate" is val.
            "validate.csv": CSV + "abseiling,in_val,0,10,validate\nriding a bike,both,0,10,validate\n",
            # Without labels, and the file's name says the split.
            "test.csv": "youtube_id,time_start,time_end\nin_test,417,427\n",
        },
        "data/kinetics-400/annotations",
    )
    work.put(
        {
            "riding a bike/-dash_id_000001_000011.mp4": "h264.mp4",
            "riding_a_bike/under__sc__000000_000010.mp4": "h264.mp4",
            "playing chess, fast/chess_000007_000017.mp4": "h264.mp4",
            "train/spoilt_000000_000010.mp4": "not a video",
            "replacement_for_corrupted_k400/spoilt_000000_000010.mp4": "one_frame.mp4",
            "bare_mp4.mp4": "h264.mp4",
            "-_bare-mkv.mkv": "h264.mkv",
            "bare_webm.webm": "av1.webm",
            "v_whole.mp4": "h264.mp4",
            "other_time_000003_000013.mp4": "h264.mp4",
            "val/in_val_000000_000010.mp4": "h264.mp4",
            "train/both_000000_000010.mp4": "h264.mp4",
            "val/both_000000_000010.mp4": "one_frame.mp4",
            "test/in_test_000417_000427.mp4": "long.mp4",
        },
        "data/kinetics-400/videos",
    )
    run = work.in_a_process("kinetics", "--resize", "64x48", "--workers", 2)
    assert (run.returncode, run.stderr) == (0, "")
    first, *_, last = run.stdout.splitlines()
    files = ", ".join(f"data/kinetics-400/annotations/{split}.csv" for split in ("test", "train", "validate"))
    assert first == f"annotations {files}, videos data/kinetics-400/videos, dataset shards/kinetics-400"
    assert last.startswith("shards/kinetics-400: 1 test, 8 train, 2 val videos, 362 frames")
    assert "rejected 2: missing" in run.stdout
    assert "missing and rejected videos: shards/kinetics-400/rejected.jsonl" in run.stdout

    data = work.root / "shards" / "kinetics-400"
    assert brief(data) == {
        "test/in_test_000417_000427": ("", 120),
        "train/-dash_id_000001_000011": ("riding a bike", 30),
        "train/under__sc__000000_000010": ("riding a bike", 30),
        "train/chess_000007_000017": ("playing chess, fast", 30),
        "train/spoilt_000000_000010": ("playing chess, fast", 1),
        "train/bare_mp4_000000_000010": ("playing chess, fast", 30),
        "train/-_bare-mkv_000000_000010": ("abseiling", 30),
        "train/bare_webm_000000_000010": ("abseiling", 30),
        "train/v_whole_000000_000010": ("abseiling", 30),
        "val/in_val_000000_000010": ("abseiling", 30),
        "val/both_000000_000010": ("riding a bike", 1),
    }
    rows = taken(data)
    assert {key.rpartition("/")[2]: row.source for key, row in rows.items()} == {
        "in_test_000417_000427": "test/in_test_000417_000427.mp4",
        "-dash_id_000001_000011": "riding a bike/-dash_id_000001_000011.mp4",
        "under__sc__000000_000010": "riding_a_bike/under__sc__000000_000010.mp4",
        "chess_000007_000017": "playing chess, fast/chess_000007_000017.mp4",
        "spoilt_000000_000010": "replacement_for_corrupted_k400/spoilt_000000_000010.mp4",
        "bare_mp4_000000_000010": "bare_mp4.mp4",
        "-_bare-mkv_000000_000010": "-_bare-mkv.mkv",
        "bare_webm_000000_000010": "bare_webm.webm",
        "v_whole_000000_000010": "v_whole.mp4",
        "in_val_000000_000010": "val/in_val_000000_000010.mp4",
        "both_000000_000010": "val/both_000000_000010.mp4",
    }
    said = about(data)
    assert (said["kind"], said["codec"], said["gop"], said["size"]) == ("kinetics", "mjpeg", 1, [64, 48])
    assert said["classes"] == ["abseiling", "playing chess, fast", "riding a bike"]
    assert rejected(data) == {
        f"train/{name}_{times}": f"missing: {name}_{times}{{.mp4,.mkv,.webm}} or {name}{{.mp4,.mkv,.webm}}"
        for name, times in (("other_time", "000000_000010"), ("gone", "000003_000013"))
    }


@pytest.fixture
def kinetics(work):
    """Four videos to train with, two to validate with, of which one is missing; a long one is not cut yet."""
    rows = [f"{'ab'[i % 2]},t{i},1,3,train\n" for i in range(4)] + ["a,v0,1,3,val\n", "c,v1,0,10,val\n"]
    work.put({"data/kinetics/k.csv": CSV + "".join(rows)})
    work.put({f"t{i}_000001_000003.mp4": "h264.mp4" for i in range(4)}, "data/kinetics/videos")
    work.put({"v0.mp4": "long.mp4"}, "data/kinetics/videos")
    return work


def test_kinetics_cuts_the_annotated_time_out_of_a_whole_video(kinetics):
    kinetics.preprocess("kinetics", "--split", "val", "--trim", "--out", "cut")
    kinetics.preprocess("kinetics", "--split", "val", "--out", "whole")
    cut, whole = taken("cut")["val/v0_000001_000003"], taken("whole")["val/v0_000001_000003"]
    assert (cut.frames, cut.start, cut.end, cut.source) == (60, 1.0, 3.0, "v0.mp4")
    assert (whole.frames, whole.start, whole.end) == (120, 0.0, 4.0)
    assert (about("cut")["options"]["trim"], about("whole")["options"]["trim"]) == (True, False)
    assert "trim True then, False now" in kinetics.preprocess("kinetics", "--split=val", "--out=cut", code=1).stderr


def test_one_split(kinetics):
    said = kinetics.preprocess("kinetics", "--split", "val").stdout
    data = kinetics.root / "shards" / "kinetics"
    assert brief(data) == {"val/v0_000001_000003": ("a", 120)}
    # A class that the split has no video of keeps its number.
    assert about(data)["classes"] == ["a", "b", "c"]
    assert list(about(data)["splits"]) == ["val"]
    assert sorted(path.name for path in data.iterdir()) == ["dataset.json", "rejected.jsonl", "val"]
    assert list(rejected(data)) == ["val/v1_000000_000010"]
    assert "note: 1 class(es) without a readable video: 'c'" in said
    said = kinetics.preprocess("kinetics", "--split", "test", "--out", "none", code=1).stderr
    assert "the kinetics annotations list no videos in test" in said
    assert not (kinetics.root / "none").exists()


def test_a_limit_chooses_the_same_videos_each_time(kinetics):
    options = ("kinetics", "--limit", "2", "--resize", "64x48")
    kinetics.preprocess(*options, "--out", "once")
    assert kinetics.in_a_process(*options, "--out", "again").returncode == 0
    for out in ("once", "again"):
        assert (len(taken(out)), rejected(out)) == (2, {})
    assert list(taken("once")) == list(taken("again"))
    before = kinetics.tree()
    said = kinetics.preprocess("kinetics", "--limit", 3, "--out", "once", code=1).stderr
    assert "v4d: once was made otherwise (" in said
    assert "limit 2 then, 3 now" in said
    assert "choose another --out, or remove it" in said
    assert "limit 2 then, None now" in kinetics.preprocess("kinetics", "--out", "once", code=1).stderr
    assert "already complete" in kinetics.preprocess("kinetics", "--limit", 2, "--out", "once").stdout
    assert kinetics.tree() == before


def test_too_many_missing_videos_are_refused_before_any_work(kinetics):
    before = kinetics.tree()
    said = kinetics.preprocess("kinetics", "--max-missing", "0.1", code=1).stderr
    assert said.startswith("v4d: 1 of the 6 listed videos are missing in data/kinetics/videos, more than --max-missing")
    assert "missing: v1_000000_000010{.mp4,.mkv,.webm} or v1{.mp4,.mkv,.webm}" in said
    assert kinetics.tree() == before
    # What the line advises does list them.
    assert "v1_000000_000010" in kinetics.preprocess("kinetics", "--max-missing", "0.1", "--dry-run").stdout


def test_mini_kinetics_by_its_lists(work):
    work.put(
        {
            "mini_train_list.txt": "/home/me/train/-dash.mp4 0\n/home/me/train/two.mp4 1\n/home/me/train/gone.mp4 1\n",
            "mini_val_list.txt": "val/three.mp4 1\n",
            "kinetics_to_mini_converter.json": json.dumps({"2": 0, "0": 1}),
            "k400.csv": CSV + "a,two,1,2,train\nb,not taken,1,2,train\nc,-dash,0,1,train\na,three,2,4,val\n",
        },
        "data/mini-kinetics/annotations",
    )
    work.put(
        {"c/-dash_000000_000001.mp4": "h264.mp4", "a/two.mp4": "long.mp4", "val/three.mp4": "long.mp4"},
        "data/mini-kinetics/videos",
    )
    said = work.preprocess("mini-kinetics", "--trim").stdout
    assert "rejected 1: missing" in said
    data = "shards/mini-kinetics"
    assert brief(data) == {
        "train/-dash_000000_000001": ("c", 30),
        "train/two_000001_000002": ("a", 30),
        "val/three_000002_000004": ("a", 60),
    }
    assert rejected(data) == {"train/gone": "missing: gone_START_END{.mp4,.mkv,.webm} or gone{.mp4,.mkv,.webm}"}
    assert (about(data)["kind"], about(data)["classes"]) == ("mini-kinetics", ["c", "a"])


def test_mini_kinetics_by_the_names_of_its_classes(work):
    csv = CSV + "b,one,0,10,train\na,two,0,10,train\nc,three,0,10,train\na,four,0,10,validate\n"
    work.put({"kinetics.csv": csv, "classes.txt": "c\na\n"}, "mini")
    work.put(dict.fromkeys(("one.mp4", "two.mp4", "three_000000_000010.mp4", "four.mp4"), "h264.mp4"), "k400")
    files = ("--annotations", "mini/kinetics.csv", "--annotations", "mini/classes.txt", "--videos", "k400")
    said = work.preprocess("mini-kinetics", *files).stdout
    assert said.splitlines()[0].endswith("videos k400, dataset shards/k400")
    assert about("shards/k400")["classes"] == ["c", "a"]
    assert brief("shards/k400") == {
        "train/two_000000_000010": ("a", 30),
        "train/three_000000_000010": ("c", 30),
        "val/four_000000_000010": ("a", 30),
    }


def test_something_version_1_is_pictures_at_12_per_second(work, video, run_ffmpeg):
    labels = ["Pulling it from left to right", "Holding it", "Pulling it from right to left", "Turning it left"]
    work.put(
        {
            "something-something-v1-labels.csv": "\n".join(labels) + "\n",
            "something-something-v1-train.csv": f"1;{labels[0]}\n2;{labels[1]}\n3;{labels[2]}\n4;{labels[3]}\n",
            "something-something-v1-validation.csv": f"5;{labels[0]}\n6;{labels[1]}\n",
            "something-something-v1-test.csv": "7\n",
        },
        "data/something",
    )
    videos = work.root / "data" / "something" / "20bn-something-something-v1"
    for name, pictures in (("1", 12), ("2", 5), ("3", 8), ("4", 6), ("5", 7), ("7", 3)):
        (videos / name).mkdir(parents=True)
        run_ffmpeg("-i", video("h264.mp4"), "-frames:v", pictures, videos / name / "%05d.jpg")
    (videos / "3" / "00004.jpg").unlink()
    said = work.preprocess("something").stdout
    assert "rejected 1: frames missing" in said
    assert "rejected 1: missing" in said
    data = "shards/something"
    assert brief(data) == {
        "test/7": ("", 3),
        "train/1": (labels[0], 12),
        "train/2": (labels[1], 5),
        "train/4": (labels[3], 6),
        "val/5": (labels[0], 7),
    }
    assert rejected(data) == {"train/3": "frames missing: 00004.jpg", "val/6": "missing: folder 6"}
    row = taken(data)["train/1"]
    assert (fps(row), row.start, row.end, row.source, row.width, row.height) == (12, 0.0, 1.0, "1", 64, 48)
    # A flip exchanges left and right; what has no other class must not be flipped; the others stay what they are.
    assert (about(data)["classes"], about(data)["flip"]) == (labels, {"0": 2, "2": 0, "3": -1})


@pytest.fixture
def something(work):
    """Version 2, in which a video is missing."""
    work.put(
        {
            "labels.json": json.dumps({"Pushing something left": "1", "Lifting something up": "0"}),
            "train.json": json.dumps([{"id": "12", "template": "Pushing [something] left"}]),
            "validation.json": json.dumps([{"id": str(i), "template": "Lifting [something] up"} for i in (12, 13)]),
            "test.json": json.dumps([{"id": "7"}]),
        },
        "data/something-something-v2/annotations",
    )
    names = ("12.webm", "7.webm")
    work.put(dict.fromkeys(names, "av1.webm"), "data/something-something-v2/20bn-something-something-v2")
    return work


def test_something_version_2_and_every_other_frame(something):
    something.preprocess("something", "--fps", 10)
    data = "shards/something-something-v2"
    assert about(data)["classes"] == ["Lifting something up", "Pushing something left"]
    assert about(data)["flip"] == {"1": -1}
    assert brief(data) == {
        "test/7": ("", 10),
        "train/12": ("Pushing something left", 10),
        "val/12": ("Lifting something up", 10),
    }
    assert rejected(data) == {"val/13": "missing: 13{.mp4,.mkv,.webm}"}
    row = taken(data)["val/12"]
    assert (fps(row), row.start, row.end, row.source) == (10, 0.0, 1.0, "12.webm")


def test_something_as_large_as_it_comes(something):
    something.preprocess("something", "--resize", "none", "--limit", 1)
    data = "shards/something-something-v2"
    assert about(data)["size"] is None
    assert [(row.width, row.height, row.frames) for row in taken(data).values()] == [(64, 48, 30)]


def activitynet_document():
    def video(subset, *segments):
        return {"subset": subset, "annotations": [{"label": label, "segment": time} for label, time in segments]}

    nodes = [("Root", None), ("Sports", "Root"), ("Polo", "Sports"), ("Archery", "Sports")]
    return {
        "taxonomy": [{"nodeName": name, "parentName": parent} for name, parent in nodes],
        "database": {
            "-dash": video("training", ("Polo", [0.5, 1.5]), ("Archery", [1, 2.25]), ("Polo", [3, 3.5])),
            "two": video("validation", ("Archery", [0, 1]), ("Archery", [2, 2])),
            "tested": video("testing"),
            "gone": video("training", ("Polo", [0, 1])),
            "idle": video("training"),
        },
    }


def test_activitynet_has_several_labels_and_segments(work):
    work.put({"activity_net.v1-3.min.json": json.dumps(activitynet_document())}, "data/activitynet")
    names = {"v_-dash.mp4": "long.mp4", "x/two.mkv": "h264.mkv", "v_tested.mp4": "h264.mp4", "idle.mp4": "h264.mp4"}
    work.put(names, "data/activitynet/videos")
    said = work.preprocess("activitynet").stdout
    assert "1 segment(s) that do not end after they begin left out" in said
    data = "shards/activitynet"
    assert about(data)["classes"] == ["Archery", "Polo"]
    assert brief(data) == {
        "test/tested": ("", 30),
        "train/-dash": ("Archery|Polo", 120),
        "val/two": ("Archery", 30),
    }
    rows = taken(data)
    assert rows["train/-dash"].segments == ((1, 0.5, 1.5), (0, 1.0, 2.25), (1, 3.0, 3.5))
    assert (rows["train/-dash"].start, rows["train/-dash"].end) == (0.0, 4.0)
    assert rows["val/two"].segments == ((0, 0.0, 1.0),)
    assert rows["test/tested"].segments == ()
    assert rejected(data) == {
        "train/gone": "missing: v_gone{.mp4,.mkv,.webm} or gone{.mp4,.mkv,.webm}",
        "train/idle": "unlabelled: a video without an annotation",
    }


def test_list_of_lines_with_numbers(work):
    work.put(dict.fromkeys(("x/1 a.mp4", "x/2.mp4", "y/2.mp4", "-3.mp4"), "h264.mp4"), "clips")
    work.put(
        {
            "train.txt": "# mine\nx/1 a.mp4 2\nx/2.mp4 0\n/gone/from/here/y/2.mp4 0\nx/none.mp4 0\n\n",
            "val.txt": "-3.mp4 0\nx/2.mp4 0\nx/2.mp4 0\n",
            "names.txt": "zero\none\ntwo\n",
        }
    )
    lists = ("--annotations", "train.txt", "--annotations", "val.txt", "--classes", "names.txt", "--videos", "clips")
    said = work.preprocess("list", *lists).stdout
    assert said.splitlines()[0] == "annotations train.txt, val.txt, videos clips, dataset shards/clips"
    assert "rejected 1: listed before" in said
    assert about("shards/clips")["classes"] == ["zero", "one", "two"]
    names = brief("shards/clips")
    assert {(taken("shards/clips")[key].source, key.partition("/")[0], name) for key, (name, _) in names.items()} == {
        ("x/1 a.mp4", "train", "two"),
        ("x/2.mp4", "train", "zero"),
        ("y/2.mp4", "train", "zero"),
        ("-3.mp4", "val", "zero"),
        ("x/2.mp4", "val", "zero"),
    }
    assert rejected("shards/clips") == {
        "train/x/none": "missing: x/none.mp4",
        "val/x/2": "listed before: val.txt row 2",
    }


def test_list_of_a_csv_file_with_names_and_times(work):
    work.put({"one.mp4": "long.mp4", "two.mp4": "h264.mp4", "three.mp4": "h264.mp4"}, "clips")
    header = "Path,Label,Subset,Start,End\n"
    work.put(
        {"mine.csv": header + 'one.mp4,run|jump,training,1,2.5\ntwo.mp4,"jump",training,,\nthree.mp4,run,valid,,\n'}
    )
    work.preprocess("list", "--annotations", "mine.csv", "--videos", "clips", "--out", "out")
    rows = taken("out")
    assert about("out")["classes"] == ["jump", "run"]
    assert {row.source: (row.labels, row.frames, row.start, row.end) for row in rows.values()} == {
        "one.mp4": ((0, 1), 45, 1.0, 2.5),
        "two.mp4": ((0,), 30, 0.0, 1.0),
        "three.mp4": ((1,), 30, 0.0, 1.0),
    }
    assert sorted(key.partition("/")[0] for key in rows) == ["train", "train", "val"]


def test_list_without_splits_holds_some_of_each_class_out(work):
    work.put({f"{i}.mp4": "one_frame.mp4" for i in range(8)}, "clips")
    work.put({"mine.txt": "".join(f"{i}.mp4 {'ab'[i % 2]}\n" for i in range(8))})
    work.preprocess("list", "--annotations", "mine.txt", "--videos", "clips", "--val-fraction", "0.25")
    held_out = [name for key, (name, _) in brief("shards/clips").items() if key.startswith("val/")]
    assert (sorted(held_out), len(taken("shards/clips"))) == (["a", "b"], 8)


def test_vp9_of_kinetics(kinetics):
    kinetics.preprocess("kinetics", "--codec", "vp9", "--resize", "short:48", "--fps", 10, "--split", "train")
    data = "shards/kinetics"
    assert (about(data)["codec"], about(data)["gop"], about(data)["size"]) == ("vp9", 32, None)
    for row in taken(data).values():
        assert (row.width, row.height, row.frames, fps(row)) == (64, 48, 10, 10)
        assert row.packet_back.tolist() == [0, 1, 2, 1, 4, 1, 2, 1, 4, 1]
    # What an earlier version wrote.
    arguments = ("--codec", "vp9", "--layers", 1, "--fps", 10, "--split", "train", "--out", "plain")
    kinetics.preprocess("kinetics", *arguments)
    assert "layers" not in about("plain")["options"]
    for row in taken("plain").values():
        assert row.packet_back.tolist() == [0, 1, 1, 1, 1, 1, 1, 1, 0, 1]


def test_h264_of_activitynet(work):
    work.put({"activity_net.json": json.dumps(activitynet_document())}, "data/activitynet")
    work.put({"v_-dash.mp4": "h264.mp4", "two.mkv": "h264.mkv"}, "data/activitynet/videos")
    work.preprocess("activitynet", "--codec", "h264", "--gop", 5, "--resize", "80x64")
    data = "shards/activitynet"
    assert (about(data)["codec"], about(data)["gop"], about(data)["size"]) == ("h264", 5, [80, 64])
    assert len(taken(data)) == 2
    for row in taken(data).values():
        assert (row.width, row.height, row.frames, fps(row)) == (80, 64, 30, 30)
        assert row.packet_back.tolist() == [0, 1, 1, 1, 1] * 6


def test_h264_is_trained_on_with_a_gpu_alone(kinetics):
    kinetics.preprocess("kinetics", "--codec", "h264", "--limit", 1, "--split", "train", "--out", "h264")
    said = kinetics.v4d("train", "--data", "h264", "--gpus", 0, code=2).stderr
    assert "is H.264, which only a GPU decodes here: use one, or preprocess with another" in said
