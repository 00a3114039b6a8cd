"""Sections, combinations, and which unit features of them differ, against an enumeration."""

import itertools
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from preprocess.errors import UsageError
from v4d.neighbourhoods import chunks, combinations, depths, sections


def test_ten_units_make_36_combinations():
    assert [len(s) for s in sections(10, 4)] == [2, 3, 2, 3]
    assert len(combinations(10, 4)) == 36


@pytest.mark.parametrize(("infer", "train"), [(i, t) for t in range(1, 9) for i in range(t, 25)])
def test_sections_cover_all_units_evenly(infer, train):
    found = sections(infer, train)
    assert list(itertools.chain(*found)) == list(range(infer))
    sizes = [len(s) for s in found]
    assert max(sizes) - min(sizes) <= 1
    assert len(sizes) == train
    for number, section in enumerate(found):
        for unit in section:
            centre = Fraction(2 * unit + 1, 2 * infer)
            assert Fraction(number, train) <= centre < Fraction(number + 1, train)


def test_combinations_are_the_product_of_the_sections():
    for infer, train in ((1, 1), (4, 4), (10, 4), (7, 3)):
        assert combinations(infer, train).tolist() == [list(c) for c in itertools.product(*sections(infer, train))]


def test_too_few_units_are_refused():
    with pytest.raises(UsageError, match="--u-infer 3 is below the 4 units"):
        sections(3, 4)


def test_too_many_combinations_are_refused():
    assert len(combinations(64, 4)) == 65_536
    with pytest.raises(UsageError, match="--u-infer 64 with 8 units in training makes 16,777,216 combinations, more"):
        combinations(64, 8)


def test_the_papers_network_has_42_and_102_features_to_compute():
    found = depths(combinations(10, 4), (1, 1))
    assert [len(depth.neighbours_NK) for depth in found] == [42, 102]
    assert [len(depth.neighbours_NK) for depth in depths(combinations(10, 4), (1, 1, 1, 1, 1))] == [42, 102, 144]
    assert [len(depth.neighbours_NK) for depth in depths(combinations(10, 4), (2, 1))] == [102, 144]
    assert [len(depth.neighbours_NK) for depth in depths(combinations(10, 4), (1, None, 1))] == [42]


@given(st.integers(1, 5), st.integers(0, 4), st.lists(st.sampled_from([0, 1, 1, 2, 3, None]), max_size=4))
def test_each_neighbourhood_has_one_feature(train, more, reaches):
    every = combinations(train + more, train)
    found = depths(every, reaches)
    # What a feature depends on, spelled out: below the first block the unit, above it its neighbours' dependence.
    below = {(m, s): (int(unit),) for (m, s), unit in np.ndenumerate(every)}
    ids = {(m, s): int(unit) for (m, s), unit in np.ndenumerate(every)}
    assert len(found) <= len(reaches)
    for depth, reach in zip(found, reaches, strict=False):
        above = {
            (m, s): tuple(below.get((m, s + d)) for d in range(-reach, reach + 1)) for m, s in np.ndindex(every.shape)
        }
        meaning, neighbours = {}, {}
        for (m, s), number in np.ndenumerate(depth.of_MS):
            assert meaning.setdefault(int(number), (s, above[m, s])) == (s, above[m, s])
            of_it = [ids.get((m, s + d), -1) for d in range(-reach, reach + 1)]
            assert neighbours.setdefault(int(number), of_it) == of_it
        assert len(set(meaning.values())) == len(meaning) == len(depth.neighbours_NK)
        assert [neighbours[number] for number in range(len(neighbours))] == depth.neighbours_NK.tolist()
        below, ids = above, {place: int(depth.of_MS[place]) for place in above}
    if len(found) < len(reaches):
        after = reaches[len(found)]
        assert after is None or sum(reaches[: len(found)]) >= train - 1


@given(
    st.integers(1, 4),
    st.integers(0, 5),
    st.sampled_from([(), (1,), (1, 1), (1, None), (2, 1)]),
    st.integers(1, 40),
    st.integers(1, 20),
)
def test_parts_hold_all_combinations_and_no_more_than_they_may(train, more, reaches, most, most_combinations):
    split = chunks(train + more, train, reaches, most, most_combinations)
    assert np.array_equal(np.concatenate([part for part, _ in split]), combinations(train + more, train))
    for part, found in split:
        assert len(part) <= most_combinations
        if len(part) > 1:
            assert all(len(depth.neighbours_NK) <= most for depth in found)
            assert len(found) == len(reaches) or part.size <= most
