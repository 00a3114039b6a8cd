"""Crops lie in the frame, at TSN's sizes and places; test crops cover it."""

import itertools

import numpy as np
import pytest

from pipelines import SCALES
from pipelines.crops import multiscale_crop, three_crops

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
