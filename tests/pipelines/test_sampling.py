"""Where action units lie, for every length of video."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.sampling import centred_units, fit_stride, random_units

frames = st.integers(1, 1000)
units = st.integers(1, 12)
lengths = st.integers(1, 16)
strides = st.integers(1, 16)


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
