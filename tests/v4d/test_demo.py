"""The demo: what its table says, and that its videos are what they claim to be."""

import itertools

import numpy as np
import pytest

from preprocess.ordered_actions import ORDERS, SIZE, class_names, draw_frames
from v4d.demo import comparison, rivals, standard_error
from v4d.evaluation.evaluate import Accuracy

COLOURS = np.array([[230, 60, 50], [60, 200, 70], [70, 90, 240], [240, 210, 60]])


@pytest.mark.parametrize("order", ORDERS)
def test_each_quarter_shows_its_sub_action(order):
    frames = draw_frames(order, np.random.default_rng(1)).astype(int)
    for quarter, action in zip(np.split(frames, 4), order, strict=True):
        for first, then in itertools.pairwise(quarter[::4]):
            far = [np.abs(frame[:, :, None] - COLOURS).max(-1) < 35 for frame in (first, then)]
            discs = [mask.sum((0, 1)) for mask in far]
            assert all(disc.argmax() == action and disc[action] > 80 for disc in discs)
        places = [np.abs(frame - COLOURS[action]).max(-1) < 35 for frame in quarter[:2]]
        axis = 1 if action < 2 else 0
        way = 1 if action in (0, 3) else -1
        # Along the axis of its motion the disc's profile fits better when it is moved on than when it is moved back.
        before, after = (place.sum(1 - axis) for place in places)
        on, back = (np.abs(np.roll(before, step) - after).sum() for step in (way, -way))
        assert on < back


def test_classes_are_orders_of_the_same_actions():
    assert len(set(ORDERS)) == len(class_names()) == len(set(class_names())) == 6
    assert all(sorted(order) == [0, 1, 2, 3] for order in ORDERS)
    assert {order[0] for order in ORDERS} == {order[3] for order in ORDERS} == {0, 1, 2, 3}
    assert draw_frames(ORDERS[0], np.random.default_rng(0)).shape == (128, SIZE, SIZE, 3)


def test_rivals_differ_in_their_4d_blocks_alone():
    v4d, tsn = rivals(3).values()
    assert v4d.model.blocks_4d
    assert not tsn.model.blocks_4d
    assert v4d.model_copy(update={"model": tsn.model}) == tsn
    assert v4d.train.seed == 3


def test_the_table_counts_standard_errors():
    of_chance = Accuracy(videos=300, classes=6, top1=1 / 6, top5=5 / 6, top_k=5)
    assert standard_error(of_chance) == pytest.approx((1 / 6 * 5 / 6 / 300) ** 0.5)
    above = Accuracy(videos=300, classes=6, top1=1 / 6 + 2 * standard_error(of_chance), top5=1.0, top_k=5)
    table = comparison({"V4D": above, "TSN": of_chance})
    assert list(table.columns[3].cells)[:2] == ["+2.0 standard errors", "+0.0 standard errors"]
