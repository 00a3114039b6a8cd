"""Which part of a frame is used: one crop and flip for a whole video in training, squares in test."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np

SCALES = (1.0, 0.875, 0.75, 0.66)
# In quarters of the room left around the crop: corners, centre, middles of the sides, and halfway between.
_POSITIONS = (
    (0, 0), (4, 0), (0, 4), (4, 4), (2, 2), (0, 2), (4, 2), (2, 0), (2, 4), (1, 1), (3, 1), (1, 3), (3, 3)
)  # fmt: skip
TRAIN_DRAWS = 3
# Of the short side: 224 of 256 pixels, as ten-crop testing has it since Krizhevsky et al., NIPS 2012.
_CORNER_SIDE = 7 / 8


class Crop(NamedTuple):
    """A rectangle of a frame, in pixels, and whether it is mirrored."""

    x: int
    y: int
    width: int
    height: int
    flip: bool = False


def multiscale_crop(width: int, height: int, draws: np.ndarray, scales: tuple[float, ...]) -> Crop:
    """A multi-scale crop as in TSN (Wang et al., ECCV 2016, section 3.2), mirrored half of the time.

    Width and height are each the frame's short side times one of ``scales``, at most one step of the scales
    apart; the place is one of 13. ``draws`` (TRAIN_DRAWS,) holds numbers in [0, 1).
    """
    pairs = _sizes(min(width, height), scales)
    crop_width, crop_height = pairs[int(draws[0] * len(pairs))]
    right, down = _POSITIONS[int(draws[1] * len(_POSITIONS))]
    x, y = (width - crop_width) * right // 4, (height - crop_height) * down // 4
    return Crop(x, y, crop_width, crop_height, bool(draws[2] < 0.5))


@lru_cache
def _sizes(short_side: int, scales: tuple[float, ...]) -> list[tuple[int, int]]:
    sides = [max(1, int(short_side * scale)) for scale in scales]
    return [(w, h) for i, w in enumerate(sides) for j, h in enumerate(sides) if abs(i - j) <= 1]


def three_crops(width: int, height: int) -> tuple[Crop, Crop, Crop]:
    """Three squares of the short side along the longer one: left, centre, right (top, centre, bottom)."""
    side, room_x, room_y = min(width, height), max(width - height, 0), max(height - width, 0)
    left, centre, right = (Crop(room_x * i // 2, room_y * i // 2, side, side) for i in range(3))
    return left, centre, right


def five_crops(width: int, height: int) -> tuple[Crop, ...]:
    """Squares of 7/8 of the short side: the four corners (upper ones first, left before right) and the centre."""
    side = max(1, int(min(width, height) * _CORNER_SIDE))
    room_x, room_y = width - side, height - side
    places = ((0, 0), (room_x, 0), (0, room_y), (room_x, room_y), (room_x // 2, room_y // 2))
    return tuple(Crop(x, y, side, side) for x, y in places)
