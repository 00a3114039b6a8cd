from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from preprocess.errors import DataError
from preprocess.records import Listing, VideoRecord
from preprocess.selection import select

ROOT = Path("videos")
SPLITS = ("train", "val", "test")


def listing_of(records, **options):
    """A listing whose records can be gone through once, as those of a reader that reads meanwhile."""
    return Listing("kinetics", ROOT, ("a", "b", "c"), iter(records), options)


@st.composite
def listed(draw, problems=True):
    """Records with distinct keys in each split; some have a problem, and some of these the key of another."""
    keys = draw(st.lists(st.tuples(st.sampled_from(SPLITS), st.text("abc/-", min_size=1)), unique=True, min_size=1))
    records = []
    for split, key in keys:
        problem = draw(st.sampled_from(("", "", "missing: x"))) if problems else ""
        records.append(VideoRecord(key, ROOT / "x", (draw(st.integers(0, 2)),), split, problem=problem))
        if problems and draw(st.booleans()):
            records.append(VideoRecord(key, ROOT / "x", (0,), split, problem="listed before: k.csv row 2"))
    return records


def found(records):
    return [record for record in records if not record.problem]


def missing_of(count, missing, split="train"):
    return [
        VideoRecord(f"{i}", ROOT / f"{i}.mp4", (0,), split, problem="missing: x" if i < missing else "")
        for i in range(count)
    ]


@given(listed())
def test_without_wishes_all_are_taken_as_they_are(records):
    if found(records):
        selected = select(listing_of(records, trim=True))
        assert selected.records == records
        assert (selected.kind, selected.root, selected.options) == ("kinetics", ROOT, {"trim": True})


@given(listed(), st.sets(st.sampled_from(SPLITS)), st.none() | st.integers(1, 12))
def test_what_is_taken_is_some_of_it_in_the_same_order(records, splits, limit):
    wanted = [record for record in records if not splits or record.split in splits]
    if not found(wanted):
        with pytest.raises(DataError):
            select(listing_of(records), splits=splits, limit=limit)
        return
    taken = list(select(listing_of(records), splits=splits, limit=limit).records)
    rest = iter(wanted)
    assert all(record in rest for record in taken)
    if limit is None:
        assert taken == wanted
    else:
        assert not any(record.problem for record in taken)
        assert len(taken) == min(limit, len(found(wanted)))


@given(listed(), st.integers(1, 8))
def test_a_greater_limit_takes_those_of_a_smaller_one_too(records, limit):
    if found(records):
        fewer = list(select(listing_of(records), limit=limit).records)
        more = list(select(listing_of(records), limit=limit + 1).records)
        assert [record for record in more if record in fewer] == fewer


@given(listed(problems=False), st.randoms(use_true_random=False), st.integers(1, 8))
def test_order_does_not_change_what_a_limit_takes(records, random, limit):
    mixed = random.sample(records, len(records))
    once, again = (select(listing_of(each), limit=limit).records for each in (records, mixed))
    assert {(record.split, record.key) for record in once} == {(record.split, record.key) for record in again}


def test_a_limit_takes_the_same_on_every_machine():
    records = [VideoRecord(f"v{i}", ROOT / "x", (0,), "train") for i in range(20)]
    taken = [record.key for record in select(listing_of(records), limit=5).records]
    assert taken == ["v5", "v6", "v7", "v8", "v10"]


def test_a_limit_takes_of_many_classes():
    records = [VideoRecord(f"{i:04d}", ROOT / "x", (i // 100,), "train") for i in range(1000)]
    taken = Counter(record.labels[0] for record in select(listing_of(records), limit=200).records)
    assert len(taken) == 10
    assert max(taken.values()) < 40


def test_what_was_asked_for_is_among_the_options():
    records = [*missing_of(4, 0), *missing_of(4, 0, "val")]
    assert select(listing_of(records, trim=False)).options == {"trim": False}
    asked = select(listing_of(records, trim=False), splits=("val", "train"), limit=3, max_missing=0.5)
    assert asked.options == {"trim": False, "split": ["train", "val"], "limit": 3}


def test_a_split_that_is_not_there():
    with pytest.raises(DataError, match=r"^videos: the kinetics annotations list no videos in val or test$"):
        select(listing_of(missing_of(3, 0)), splits=("val", "test"))


def test_nothing_listed():
    with pytest.raises(DataError, match=r"^videos: the kinetics annotations list no videos$"):
        select(listing_of([]))


@pytest.mark.parametrize("limit", [None, 1])
def test_nothing_found(limit):
    with pytest.raises(DataError, match=r"^none of the 5 listed videos is in videos \(missing: x; .*see --videos$"):
        select(listing_of(missing_of(5, 5)), limit=limit)
    # Of the splits that are asked for.
    with pytest.raises(DataError, match=r"^none of the 5 listed"):
        select(listing_of([*missing_of(5, 5), *missing_of(5, 0, "val")]), splits=("train",), limit=limit)


@given(st.integers(1, 300), st.data())
def test_a_share_of_missing_videos_is_allowed_up_to_itself(count, data):
    missing = data.draw(st.integers(0, count - 1))
    records = missing_of(count, missing)
    share = missing / count
    assert len(list(select(listing_of(records), max_missing=share).records)) == count
    assert len(list(select(listing_of(records), max_missing=share, limit=1).records)) == 1
    if missing:
        for limit in (None, 1):
            with pytest.raises(
                DataError, match=rf"^{missing} of the {count} listed videos are missing in videos, more"
            ):
                select(listing_of(records), max_missing=(missing - 0.5) / count, limit=limit)


@pytest.mark.parametrize("percent", range(1, 100))
def test_a_share_as_it_is_typed(percent):
    # 0.29 * 100 is less than 29 in floating point.
    share = float(f"0.{percent:02d}")
    assert len(list(select(listing_of(missing_of(100, percent)), max_missing=share).records)) == 100
    with pytest.raises(DataError):
        select(listing_of(missing_of(100, percent + 1)), max_missing=share)


def test_only_the_splits_that_are_taken_count_as_missing():
    records = [*missing_of(10, 9), *missing_of(10, 1, "val")]
    assert len(list(select(listing_of(records), splits=("val",), max_missing=0.1).records)) == 10
    with pytest.raises(DataError, match=r"^10 of the 20 listed"):
        select(listing_of(records), max_missing=0.1)
