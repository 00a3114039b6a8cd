import csv
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from preprocess.datasets.kinetics import list_kinetics

HEADER = "label,youtube_id,time_start,time_end,split,is_cc\n"
ROWS = (
    HEADER
    + '"riding a bike",-dash_id,1,11,train,0\nabseiling,second,417,427,validate,1\n"hurling (sport)",third,0,10,val,0\n'
)


@pytest.fixture
def listing(tmp_path, make):
    """A function: lists csv files by what they hold, among empty videos."""

    def list_them(files, videos=(), **options):
        make(tmp_path / "videos", {".keep": "", **dict.fromkeys(videos, "")})
        return list_kinetics(make(tmp_path, files), tmp_path / "videos", **options)

    return list_them


def about(listing):
    return [
        (record.key, [listing.classes[label] for label in record.labels], record.split, record.problem, record.trim)
        for record in listing.records
    ]


def test_cut_files(listing, tmp_path):
    videos = ["riding_a_bike/-dash_id_000001_000011.mp4", "x/second_000417_000427.mkv", "third_000000_000010.webm"]
    found = listing({"k.csv": ROWS}, videos, trim=True)
    assert (found.kind, found.root, found.notes) == ("kinetics", tmp_path / "videos", [])
    assert found.classes == ("abseiling", "hurling (sport)", "riding a bike")
    records = list(found.records)
    assert [record.source for record in records] == [tmp_path / "videos" / name for name in videos]
    assert about(listing({"k.csv": ROWS}, videos, trim=True)) == [
        ("-dash_id_000001_000011", ["riding a bike"], "train", "", None),
        ("second_000417_000427", ["abseiling"], "val", "", None),
        ("third_000000_000010", ["hurling (sport)"], "val", "", None),
    ]


def test_whole_files(listing):
    videos = ["-dash_id.mp4", "val/second.mkv", "v_third.webm"]
    assert [record.trim for record in listing({"k.csv": ROWS}, videos).records] == [None] * 3
    assert [record.trim for record in listing({"k.csv": ROWS}, videos, trim=True).records] == [
        (1, 11),
        (417, 427),
        (0, 10),
    ]


@pytest.mark.parametrize(
    ("videos", "wanted"),
    [
        (["train/second_000417_000427.mp4", "val/second_000417_000427.mkv"], "val/second_000417_000427.mkv"),
        (["abseiling/second_000417_000427.mkv", "a/second_000417_000427.mp4"], "abseiling/second_000417_000427.mkv"),
        (["val/second.mp4", "second_000417_000427.mp4"], "second_000417_000427.mp4"),
        (
            ["val/second_000417_000427.mp4", "replacement_for_corrupted_k400/second_000417_000427.mp4"],
            "replacement_for_corrupted_k400/second_000417_000427.mp4",
        ),
    ],
)
def test_choice_of_files(listing, tmp_path, videos, wanted):
    records = list(listing({"k.csv": HEADER + "abseiling,second,417,427,val,0\n"}, videos, trim=True).records)
    assert [record.source for record in records] == [tmp_path / "videos" / wanted]
    assert records[0].trim is None


def test_columns_by_name(listing):
    rows = '\ufeffsplit,extra,"time_end",time_start,youtube_id,LABEL\r\n"val","a,b","12.0","2","ID"," b "\r\n'
    assert about(listing({"k.csv": rows}, ["ID.mp4"])) == [("ID_000002_000012", ["b"], "val", "", None)]


def test_split_by_the_name_of_the_file(listing):
    rows = "label,youtube_id,time_start,time_end\na,ID,1,2\n"
    records = listing({"train.csv": rows, "k600_validate.csv": rows, "test.csv": rows}, ["ID.mp4"]).records
    assert [record.split for record in records] == ["train", "val", "test"]


def test_test_files_need_no_label(listing):
    files = {
        "test.csv": "youtube_id,time_start,time_end,split\nx,1,2,test\n",
        "train.csv": HEADER + "a,y,1,2,train,0\n",
    }
    assert about(listing(files, ["x.mp4", "y.mp4"])) == [
        ("x_000001_000002", [], "test", "", None),
        ("y_000001_000002", ["a"], "train", "", None),
    ]


def test_classes_over_all_files(listing):
    files = {"val.csv": HEADER + "b,x,1,2,val,0\n", "train.csv": HEADER + "c,y,1,2,train,0\na,z,1,2,train,0\n"}
    found = listing(files)
    assert found.classes == ("a", "b", "c")
    assert [record.labels for record in found.records] == [(1,), (2,), (0,)]


def test_missing_and_listed_before(listing, tmp_path):
    rows = HEADER + "a,x,1,2,val,0\na,y,1,2,val,0\na,x,1,2,val,0\nb,x,1,2,train,0\na,x,1,3,val,0\na,y,1,2,val,0\n"
    found = listing({"k.csv": rows}, ["x_000001_000002.mp4"])
    missing = "missing: {0}{{.mp4,.mkv,.webm}} or {1}{{.mp4,.mkv,.webm}}"
    assert [(record.key, record.split, record.problem) for record in found.records] == [
        ("x_000001_000002", "val", ""),
        ("y_000001_000002", "val", missing.format("y_000001_000002", "y")),
        ("x_000001_000002", "val", f"listed before: {tmp_path}/k.csv row 2"),
        ("x_000001_000002", "train", ""),
        ("x_000001_000003", "val", missing.format("x_000001_000003", "x")),
        ("y_000001_000002", "val", f"listed before: {tmp_path}/k.csv row 3"),
    ]


def test_parts_of_a_second_are_other_clips(listing):
    rows = HEADER + "a,x,1.25,2.5,val,0\na,x,1.75,2.5,val,0\na,x,1,2,val,0\n"
    records = list(listing({"k.csv": rows}, ["x.mp4"], trim=True).records)
    assert len({record.key for record in records}) == 3
    assert [(record.trim, record.problem) for record in records] == [((1.25, 2.5), ""), ((1.75, 2.5), ""), ((1, 2), "")]


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("k.csv", HEADER, " holds no row below its header: name another file"),
        ("k.csv", "", " is empty: name another file"),
        ("k.csv", "label,time_start,time_end\n", " row 1: the header has no column youtube_id: add it"),
        ("k.csv", HEADER + "a,,1,2,val,0\n", " row 2: youtube_id is empty: mend it"),
        ("k.csv", HEADER + "a,x,abc,2,val,0\n", " row 2: time_start is 'abc', not a number: mend it"),
        ("k.csv", HEADER + "a,x,1,,val,0\n", " row 2: time_end is '', not a number: mend it"),
        ("k.csv", HEADER + "a,x,1,inf,val,0\n", " row 2: time_end is 'inf', not a number: mend it"),
        ("k.csv", HEADER + "a,x,3,2,val,0\n", " row 2: from time_start 3 to time_end 2 is no time: mend it"),
        ("k.csv", HEADER + "a,x,-1,2,val,0\n", " row 2: from time_start -1 to time_end 2 is no time: mend it"),
        ("k.csv", HEADER + "a,x,1,2,holdout,0\n", " row 2: split is 'holdout', not train, val or test: mend it"),
        ("train.csv", HEADER + "a,x,1,2,,0\n", " row 2: split is '', not train, val or test: mend it"),
        ("k.csv", HEADER + "a,x,1,2,val,0\n,x,1,2,train,0\n", " row 3: a train row has no label: mend it"),
        ("k.csv", HEADER + "a,x,1,2,val\n", " row 2: has 5 cells, the header 6: mend it"),
        (
            "k.csv",
            "label,youtube_id,time_start,time_end\na,x,1,2\n",
            " row 2: there is no column split, nor train, val or test in the file's name: add one",
        ),
        (
            "test.csv",
            "youtube_id,time_start,time_end\nx,1,2\n",
            ": no row has a label: name the csv file of a labelled split too",
        ),
    ],
)
def test_faults(listing, message, tmp_path, name, text, said):
    assert message(lambda: listing({name: text})) == f"{tmp_path / name}{said}"


def test_faults_of_the_call(listing, message, tmp_path, make):
    assert message(lambda: listing({})) == "no file: no row has a label: name the csv file of a labelled split too"
    (path,) = make(tmp_path, {"k.csv": ROWS})
    assert message(lambda: list_kinetics([path], tmp_path / "nowhere")).endswith(
        "nowhere is missing: name the folder of the videos"
    )


def test_records_are_made_as_they_are_asked_for(listing, message, tmp_path):
    rows = HEADER + "".join(f"a,id{i},1,2,val,0\n" for i in range(5000))
    records = iter(listing({"k.csv": rows}).records)
    assert next(records).key == "id0_000001_000002"
    with (tmp_path / "k.csv").open("r+") as file:
        file.seek(len(rows) - len("a,id4999,1,2,val,0\n"))
        file.write("b")
    *_, last = [next(records) for _ in range(4998)]
    assert last.key == "id4998_000001_000002"
    # What the second reading finds is not what the first one found.
    assert message(lambda: type("", (), {"records": records})) == (
        f"{tmp_path}/k.csv row 5001: the label was not there before: has the file changed?"
    )


texts = st.text(max_size=8) | st.sampled_from(
    [
        "../a",
        "/etc/passwd",
        "CON",
        "a\0",
        "1e999",
        "-1",
        "NaN",
        '"',
        "a,b",
        "a\nb",
        "\u2028",
        "x" * 300,
        "ID",
        "\x1b[1m",
    ]
)
row_of_texts = st.fixed_dictionaries(
    {
        "label": texts | st.just("a"),
        "youtube_id": texts | st.just("ID"),
        "time_start": texts | st.sampled_from(["1", "0.5"]),
        "time_end": texts | st.sampled_from(["11", "2e300"]),
        "split": texts | st.sampled_from(["train", "val", "test"]),
    }
)
sound_rows = st.fixed_dictionaries(
    {
        "label": texts.filter(str.strip),
        "youtube_id": texts.filter(str.strip),
        "time_start": st.sampled_from(["1", "0.5"]),
        "time_end": st.sampled_from(["11", "2e300"]),
        "split": st.sampled_from(["train", "val", "test"]),
    }
)


@given(st.lists(row_of_texts, max_size=4) | st.lists(sound_rows, min_size=1, max_size=6), st.booleans())
def test_any_cells(folder, make, records, rows, trim):
    text = io.StringIO()
    writer = csv.DictWriter(text, ["label", "youtube_id", "time_start", "time_end", "split"])
    writer.writeheader()
    writer.writerows(rows)
    make(folder, {"videos/ID.mp4": ""})
    files = make(folder, {"k.csv": text.getvalue()})
    found = records(files, lambda: list_kinetics(files, folder / "videos", trim=trim))
    assert found is None or len(found) <= len(rows)
    assert all(r.problem or r.source == folder / "videos" / "ID.mp4" for r in found or [])


@given(st.binary() | st.tuples(st.integers(0, len(ROWS)), st.binary(max_size=4)))
def test_any_bytes(folder, make, records, change):
    """Also a sound file with a few bytes put in place of others."""
    if isinstance(change, tuple):
        at, put = change
        change = ROWS.encode()[:at] + put + ROWS.encode()[at + len(put) :]
    make(folder, {"videos/ID.mp4": ""})
    files = make(folder, {"any.csv": change})
    records(files, lambda: list_kinetics(files, folder / "videos"))
