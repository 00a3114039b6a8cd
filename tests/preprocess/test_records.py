from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from preprocess.records import VideoRecord, draw_split, printable, safe_key

names = st.text(min_size=1)


@given(st.lists(names, min_size=1, max_size=3))
def test_key_stays_inside_and_has_no_dot(parts):
    key = safe_key(*parts)
    assert key.count("/") == len(parts) - 1
    for part in key.split("/"):
        assert part
        assert all(character.isalnum() or character in "_-" for character in part)
        assert len(part) <= 80 + 17


@given(st.lists(names, unique=True, max_size=20))
def test_keys_differ_where_names_do(different):
    assert len({safe_key(name) for name in different}) == len(different)


@given(names)
def test_key_of_a_key_is_another_name_s(name):
    """A name that is the key of another name must not fall on it."""
    key = safe_key(name)
    assert safe_key(key) != key or name == key


def test_long_names_differ():
    assert safe_key("x" * 300) != safe_key("x" * 301)
    assert len(safe_key("x" * 300)) < 100


@pytest.mark.parametrize("name", ["v_Archery_g01_c01", "-dash", "漢字", "Ünïcode", "0"])
def test_plain_names_stay_as_they_are(name):
    assert safe_key(name) == name


@pytest.mark.parametrize("name", ["..", ".", "a.b", "a b", "a/b", "a\nb", "x" * 81, "%d", "\udcff"])
def test_other_names_get_a_hash(name):
    assert safe_key(name) != name
    assert safe_key(name).isprintable()


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("plain", "plain"),
        (Path("a/b"), "a/b"),
        ("new\nline\x1b", "new\\nline\\x1b"),
        ("b\udcff", "b\\xff"),
        ("漢字 ü", "漢字 ü"),
        ("a\u2028b", "a\\u2028b"),
    ],
)
def test_printable(path, text):
    assert printable(path) == text


def records_of(keys, label=0):
    return [VideoRecord(key, Path(key), (label,), "") for key in keys]


def held_out(records, fraction):
    return {record.key for record in draw_split(records, fraction) if record.split == "val"}


keys = st.lists(names, unique=True, min_size=1, max_size=40)
fractions = st.floats(0, 1, exclude_max=True)


@given(keys, fractions, st.randoms(use_true_random=False))
def test_split_does_not_depend_on_order_or_other_classes(some, fraction, random):
    shuffled = random.sample(some, len(some))
    others = records_of([f"other {key}" for key in some], label=1)
    drawn = draw_split(records_of(shuffled) + others, fraction)
    assert {r.key for r in drawn if r.split == "val" and r.labels == (0,)} == held_out(records_of(some), fraction)
    assert [record.key for record in drawn] == sorted(some + [f"other {key}" for key in some])


@given(keys, fractions)
def test_split_holds_out_the_fraction(some, fraction):
    count = len(held_out(records_of(some), fraction))
    assert abs(count - fraction * len(some)) <= 0.5 or count in (1, len(some) - 1)


@given(keys.filter(lambda some: len(some) > 1), st.floats(0, 1, exclude_min=True, exclude_max=True))
def test_each_class_is_in_both_splits(some, fraction):
    assert 0 < len(held_out(records_of(some), fraction)) < len(some)


@given(keys)
def test_nothing_held_out(some):
    assert held_out(records_of(some), 0) == set()
    assert held_out(records_of(some[:1]), 0.4) == set()


@given(keys, names, fractions)
def test_one_video_more_moves_at_most_one_of_the_others(some, key, fraction):
    others = [other for other in some if other != key]
    before, after = held_out(records_of(others), fraction), held_out(records_of([*others, key]), fraction)
    assert len((before ^ after) - {key}) <= 1


def test_split_is_the_same_in_every_version():
    held = held_out(records_of([f"video-{i}" for i in range(20)]), 0.2)
    assert held == {"video-3", "video-5", "video-6", "video-15"}
