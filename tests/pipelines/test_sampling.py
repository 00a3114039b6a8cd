"""Where action units lie, for every length of video."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.randomness import Purpose, uniform
from pipelines.sampling import centred_units, even_clips, fit_stride, random_units

frames = st.integers(1, 1000)
units = st.integers(1, 12)
lengths = st.integers(1, 16)
strides = st.integers(1, 16)


# Units, frames of one, stride.
SPREAD = [
    (1, 1, 1),
    (4, 4, 8),
    (8, 4, 8),
    (10, 4, 8),
    (3, 1, 8),
    (4, 8, 4),
    (16, 2, 3),
    (5, 7, 1),
    (1, 32, 2),
    (7, 3, 13),
]
EVERY_LENGTH = range(1, 1001)


def edges_of(count, unit_count):
    """Where each section begins, and the last one ends: frame j lies in section i if i·N/U <= j < (i+1)·N/U."""
    return np.array([-(-i * count // unit_count) for i in range(unit_count + 1)])


@pytest.mark.parametrize(("unit_count", "length", "stride"), SPREAD)
def test_train_units_of_every_length_of_video(unit_count, length, stride):
    span = (length - 1) * stride + 1
    for count in EVERY_LENGTH:
        edges = edges_of(count, unit_count)
        fits = np.diff(edges) >= span
        random = np.random.default_rng(count).random(unit_count)
        for draws in (np.zeros(unit_count), np.full(unit_count, 1 - 2**-53), random):
            units = random_units(count, unit_count, length, stride, draws)
            assert units.shape == (unit_count, length)
            assert units.min() >= 0
            assert units.max() < count
            assert (np.diff(units[fits], axis=1) == stride).all()
            assert (units[fits, 0] >= edges[:-1][fits]).all()
            assert (units[fits, -1] < edges[1:][fits]).all()
            # A unit that does not fit lies around the drawn centre, as far as there are frames.
            centre = (np.arange(unit_count) + draws)[~fits, None] * count / unit_count
            wanted = centre - span / 2 + np.arange(length) * stride
            assert (np.abs(units[~fits] - np.clip(wanted, 0, count - 1)) <= 0.5 + 1e-9).all()
            assert (np.diff(units[~fits], axis=1) >= 0).all()


@pytest.mark.parametrize(("unit_count", "length", "stride"), SPREAD)
def test_test_units_of_every_length_of_video(unit_count, length, stride):
    span = (length - 1) * stride + 1
    for count in EVERY_LENGTH:
        units = centred_units(count, unit_count, length, stride)
        assert units.min() >= 0
        assert units.max() < count
        assert (np.diff(units, axis=1) >= 0).all()
        centre = (np.arange(unit_count) + 0.5) * count / unit_count
        is_whole = units[:, -1] - units[:, 0] == span - 1
        assert (np.abs((units[:, 0] + units[:, -1] + 1) / 2 - centre)[is_whole] <= 0.5 + 1e-9).all()
        # Only a unit that would leave the video is clamped.
        assert ((centre[~is_whole] - span / 2 < 0.5) | (centre[~is_whole] + span / 2 > count - 0.5)).all()
        wanted = centre[:, None] - span / 2 + np.arange(length) * stride
        assert (np.abs(units - np.clip(wanted, 0, count - 1)) <= 0.5 + 1e-9).all()


@pytest.mark.parametrize(("unit_count", "length", "stride"), SPREAD)
def test_the_stride_that_fits_every_length_of_video(unit_count, length, stride):
    for count in EVERY_LENGTH:
        chosen = fit_stride(count, unit_count, length, stride)
        assert 1 <= chosen <= stride
        # A section of a video that has fewer frames than sections may hold none; a unit of one frame always fits.
        section = max(1, np.diff(edges_of(count, unit_count)).min())
        assert chosen == 1 or (length - 1) * chosen + 1 <= section
        assert chosen == stride or (length - 1) * (chosen + 1) + 1 > section


def draws_of_epochs(unit_count, epochs=4000):
    return [uniform(7, Purpose.UNITS, epoch, 11, unit_count) for epoch in range(epochs)]


def chi_square(values, cells):
    counts = np.array([np.sum(np.array(values) == cell) for cell in cells])
    assert counts.sum() == len(values)
    expected = len(values) / len(counts)
    return ((counts - expected) ** 2 / expected).sum()


# What chi-square stays below in 999 of 1000 cases, by degrees of freedom.
CHI_SQUARE = {7: 24.32, 9: 27.88}


def test_starts_are_uniform_over_those_that_fit():
    # Sections of 32 frames, units that span 25.
    starts = np.array([random_units(128, 4, 4, 8, draws)[:, 0] for draws in draws_of_epochs(4)])
    for i in range(4):
        assert chi_square(starts[:, i], range(32 * i, 32 * i + 8)) < CHI_SQUARE[7]


def test_centres_are_uniform_in_sections_that_are_too_short():
    # Sections of 10 frames. The second unit never reaches the end of the video, nor the third one its beginning.
    units = np.array([random_units(40, 4, 4, 8, draws) for draws in draws_of_epochs(4)])
    assert chi_square(units[:, 1, -1] - 24, range(-2, 8)) < CHI_SQUARE[9]
    assert chi_square(units[:, 2, 0], range(8, 18)) < CHI_SQUARE[9]


@given(frames, units, lengths, strides, st.integers(0, 2**32 - 1))
def test_train_units_obey_their_sections(count, unit_count, length, stride, seed):
    draws = np.random.default_rng(seed).random(unit_count)
    indices = random_units(count, unit_count, length, stride, draws)
    assert indices.shape == (unit_count, length)
    assert indices.min() >= 0
    assert indices.max() < count
    assert (np.diff(indices, axis=1) >= 0).all()
    span = (length - 1) * stride + 1
    for i, unit in enumerate(indices):
        # Frames j with i·N/U <= j < (i+1)·N/U, in whole numbers.
        section = [j for j in range(count) if i * count <= j * unit_count < (i + 1) * count]
        if len(section) >= span:
            assert unit[0] >= section[0]
            assert unit[-1] <= section[-1]
            assert (np.diff(unit) == stride).all()


@pytest.mark.parametrize("count", [40, 41, 43, 128])
def test_train_starts_reach_every_place_that_fits(count):
    span, reached = 9, set()
    for draw in np.linspace(0, 1, 2000, endpoint=False):
        reached.add(tuple(random_units(count, 4, 3, 4, np.full(4, draw))[:, 0].tolist()))
    for i in range(4):
        section = [j for j in range(count) if i * count <= j * 4 < (i + 1) * count]
        assert {starts[i] for starts in reached} == set(range(section[0], section[-1] - span + 2))


@given(frames, units, lengths, strides)
def test_test_units_are_centred(count, unit_count, length, stride):
    indices = centred_units(count, unit_count, length, stride)
    span = (length - 1) * stride + 1
    for i, unit in enumerate(indices):
        centre = (i + 0.5) * count / unit_count
        wanted = centre - span / 2 + np.arange(length) * stride
        assert (np.abs(unit - np.clip(wanted, 0, count - 1)) <= 0.5 + 1e-9).all()


@pytest.mark.parametrize(
    ("count", "unit_count", "length"), list(itertools.product([1, 5, 36, 72, 300], [1, 4], [2, 4, 8]))
)
def test_fit_stride_is_the_largest_that_fits(count, unit_count, length):
    stride = fit_stride(count, unit_count, length, 8)
    assert 1 <= stride <= 8
    section = count // unit_count
    assert stride == 1 or (length - 1) * stride + 1 <= section
    assert stride == 8 or (length - 1) * (stride + 1) + 1 > section


def test_one_frame_gives_that_frame():
    assert (random_units(1, 4, 4, 8, np.full(4, 0.99)) == 0).all()
    assert (centred_units(1, 10, 4, 8) == 0).all()


@given(frames, units, lengths, strides, st.integers(0, 2**32 - 1), st.data())
def test_units_on_keyframes(count, unit_count, length, stride, seed, data):
    gop = data.draw(st.integers(2, 40))
    keyframes = np.arange(0, count, gop)
    draws = np.random.default_rng(seed).random(unit_count)
    free = random_units(count, unit_count, length, stride, draws)
    if len(keyframes) == count:
        return
    indices = random_units(count, unit_count, length, stride, draws, keyframes)
    edges, span = edges_of(count, unit_count), (length - 1) * stride + 1
    assert indices.shape == free.shape
    assert indices.max() < count
    assert np.isin(indices[:, 0], keyframes).all()
    steps = np.diff(indices, axis=1)
    assert np.isin(steps, (0, stride)).all()
    assert (np.diff(steps, axis=1) <= 0).all()
    # A unit repeats its last frame only if there is no other.
    assert (indices[:, -1] == np.minimum(indices[:, 0] + span - 1, indices[:, -1])).all()
    assert (indices[:, -1] + stride >= count)[indices[:, -1] - indices[:, 0] < span - 1].all()
    for i, unit in enumerate(indices):
        fitting = [k for k in keyframes if edges[i] <= k <= edges[i + 1] - span]
        if fitting:
            assert unit[0] == fitting[int(draws[i] * len(fitting))]
        elif edges[i + 1] - edges[i] >= span:
            assert abs(unit[0] - free[i, 0]) == np.abs(keyframes - free[i, 0]).min()
    if stride % gop == 0:
        assert np.isin(indices, keyframes).all()


def test_keyframes_nearest_to_a_start_before_or_behind_all_of_them():
    # The unit spans 41 of 10 frames: its start lies before the video, whatever is drawn.
    assert random_units(10, 1, 6, 8, np.full(1, 0.99), np.array([3, 7])).tolist() == [[3] * 6]
    # The start of the last unit is drawn as 9.
    assert random_units(10, 6, 2, 1, np.full(6, 0.95), np.array([0, 4]))[-1].tolist() == [4, 5]
    assert random_units(10, 1, 3, 8, np.full(1, 0.95), np.array([0, 1])).tolist() == [[1, 9, 9]]


@given(frames, units, lengths, strides, st.integers(0, 2**32 - 1))
def test_where_each_frame_is_a_keyframe_or_none_is_nothing_changes(count, unit_count, length, stride, seed):
    draws = np.random.default_rng(seed).random(unit_count)
    free = random_units(count, unit_count, length, stride, draws)
    for keyframes in (np.arange(count), np.arange(0)):
        np.testing.assert_array_equal(random_units(count, unit_count, length, stride, draws, keyframes), free)


@given(frames, units, st.integers(1, 64), strides)
def test_clips_lie_evenly_from_start_to_end(count, clips, length, stride):
    indices = even_clips(count, clips, length, stride)
    span = (length - 1) * stride + 1
    assert indices.shape == (clips, length)
    if span > count:
        # All the same: the video in the middle, its first and last frame repeated.
        wanted = np.clip((count - span) / 2 + np.arange(length) * stride, 0, count - 1)
        assert (np.abs(indices - wanted) <= 0.5).all()
        return
    assert (np.diff(indices, axis=1) == stride).all()
    assert indices.min() >= 0
    assert indices.max() < count
    if clips == 1:
        assert abs(indices[0, 0] - (count - span) / 2) <= 0.5
        return
    assert indices[0, 0] == 0
    assert indices[-1, -1] == count - 1
    gaps = np.diff(indices[:, 0])
    assert gaps.max() - gaps.min() <= 1


def test_clips_by_hand():
    assert even_clips(20, 3, 3, 4).tolist() == [[0, 4, 8], [6, 10, 14], [11, 15, 19]]
