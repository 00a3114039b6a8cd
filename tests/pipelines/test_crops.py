"""Crops lie in the frame, at TSN's sizes and places; test crops cover it."""

import itertools
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines import SCALES
from pipelines.crops import five_crops, multiscale_crop, three_crops

sides = st.integers(1, 1000)
draws = st.lists(st.floats(0, 1, exclude_max=True), min_size=3, max_size=3)
scales = st.lists(st.floats(0.01, 1), min_size=1, max_size=5).map(lambda found: tuple(sorted(found, reverse=True)))

FRAMES = [(320, 256), (256, 320), (455, 256), (48, 48), (17, 31)]


@pytest.mark.parametrize(("width", "height"), FRAMES)
def test_train_crops_are_tsns(width, height):
    sides = [int(min(width, height) * scale) for scale in SCALES]
    seen = set()
    for draws in itertools.product(np.linspace(0, 1, 40, endpoint=False), repeat=2):
        crop = multiscale_crop(width, height, np.array([*draws, 0.5]), SCALES)
        assert 0 <= crop.x <= width - crop.width
        assert 0 <= crop.y <= height - crop.height
        assert abs(sides.index(crop.width) - sides.index(crop.height)) <= 1
        seen.add(crop)
    assert len({(c.width, c.height) for c in seen}) == 10
    largest_room = [c for c in seen if (c.width, c.height) == (sides[-1], sides[-1])]
    assert len(largest_room) == 13 or min(width, height) < 40


def test_half_of_the_crops_are_mirrored():
    flips = [
        multiscale_crop(320, 256, np.array([0.0, 0.0, draw]), SCALES).flip for draw in np.linspace(0, 1, 100, False)
    ]
    assert sum(flips) == 50


@pytest.mark.parametrize(("width", "height"), FRAMES)
def test_test_crops_reach_both_ends(width, height):
    first, centre, last = three_crops(width, height)
    side = min(width, height)
    assert {(c.width, c.height, c.flip) for c in (first, centre, last)} == {(side, side, False)}
    assert (first.x, first.y) == (0, 0)
    assert (last.x + side, last.y + side) == (width, height)
    assert abs(centre.x - (width - side) / 2) <= 0.5
    assert abs(centre.y - (height - side) / 2) <= 0.5


@given(sides, sides, draws, scales)
def test_train_crops_lie_in_frames_of_any_size(width, height, drawn, wanted):
    crop = multiscale_crop(width, height, np.array(drawn), wanted)
    lengths = [max(1, int(min(width, height) * scale)) for scale in wanted]
    pairs = {(a, b) for i, a in enumerate(lengths) for j, b in enumerate(lengths) if abs(i - j) <= 1}
    assert (crop.width, crop.height) in pairs
    assert 0 <= crop.x <= width - crop.width
    assert 0 <= crop.y <= height - crop.height
    assert crop.flip == (drawn[2] < 0.5)


@pytest.mark.parametrize(("width", "height"), [(320, 256), (321, 257), (257, 455)])
def test_the_places_of_train_crops_are_tsns_thirteen(width, height):
    side = min(width, height) // 2
    # Corners, centre and middles of the sides; and the centres of what lies between corners and centre.
    quarters = {(x, y) for x in (0, 2, 4) for y in (0, 2, 4)} | {(x, y) for x in (1, 3) for y in (1, 3)}
    seen = [multiscale_crop(width, height, np.array([0, place, 0]), (0.5,)) for place in (np.arange(13) + 0.5) / 13]
    assert {(crop.width, crop.height) for crop in seen} == {(side, side)}
    places = {(x * (width - side) // 4, y * (height - side) // 4) for x, y in quarters}
    assert sorted((crop.x, crop.y) for crop in seen) == sorted(places)


def test_sizes_and_places_are_drawn_evenly():
    steps = (np.arange(130) + 0.5) / 130
    seen = Counter(multiscale_crop(320, 256, np.array([a, b, 0.0]), SCALES) for a in steps for b in steps)
    # 10 sizes, 13 places; the largest fills the height, so that of its 13 places only 5 differ.
    assert sum(seen.values()) == 130 * 130
    of_sizes = Counter()
    for crop, count in seen.items():
        of_sizes[crop.width, crop.height] += count
    assert set(of_sizes.values()) == {1690}
    assert set(Counter({crop: n for crop, n in seen.items() if crop.height < 256}).values()) == {130}


@given(sides, sides)
def test_test_crops_of_frames_of_any_size(width, height):
    first, centre, last = three_crops(width, height)
    side = min(width, height)
    for crop in (first, centre, last):
        assert (crop.width, crop.height, crop.flip) == (side, side, False)
        assert 0 <= crop.x <= width - side
        assert 0 <= crop.y <= height - side
    assert (first.x, first.y, last.x, last.y) == (0, 0, width - side, height - side)
    assert abs(2 * centre.x - (width - side)) <= 1
    assert abs(2 * centre.y - (height - side)) <= 1


@pytest.mark.parametrize(("width", "height"), FRAMES)
def test_five_crops_are_corners_and_centre(width, height):
    crops = five_crops(width, height)
    side = min(width, height) * 7 // 8
    assert {(c.width, c.height, c.flip) for c in crops} == {(side, side, False)}
    left, top, right, bottom = 0, 0, width - side, height - side
    assert [(c.x, c.y) for c in crops[:4]] == [(left, top), (right, top), (left, bottom), (right, bottom)]
    assert abs(crops[4].x - (width - side) / 2) <= 0.5
    assert abs(crops[4].y - (height - side) / 2) <= 0.5
