import pytest
from hypothesis import given
from hypothesis import strategies as st

from preprocess.directions import flip_of


@pytest.mark.parametrize(
    ("classes", "flipped"),
    [
        ((), ()),
        (("walk", "run"), (0, 1)),
        (("from left to right", "walk", "from right to left"), (2, 1, 0)),
        (("turn left", "walk"), (-1, 1)),
        (("turn_left", "turn_right"), (1, 0)),
        (("Left-hand", "Right-hand", "LEFT", "RIGHT", "left", "right"), (1, 0, 3, 2, 5, 4)),
        (("Turn Left", "turn right"), (-1, -1)),
        (("upright", "leftover", "bright", "righteous"), (0, 1, 2, 3)),
        (("left and right",), (-1,)),
        (("lEFT", "right", "left"), (-1, 2, 1)),
        # A name that two classes share is that of the second.
        (("left", "left", "right"), (-1, 2, 1)),
    ],
)
def test_flip(classes, flipped):
    assert flip_of(classes) == flipped


words = st.sampled_from(["left", "right", "Left", "RIGHT", "lEFT", "to", "-", "_", " ", "leftish"])
names = st.lists(words, max_size=5).map("".join)


@given(st.lists(names, max_size=8))
def test_flip_twice_comes_back(classes):
    flipped = flip_of(classes)
    assert len(flipped) == len(classes)
    for i, partner in enumerate(flipped):
        assert partner == -1 or flipped[partner] == i
        if "left" not in classes[i].lower() and "right" not in classes[i].lower():
            assert partner == i
