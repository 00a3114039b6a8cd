"""The confusion of classes as the page shows it: in orders, as a picture of all, and in figures where there is room.

Shape suffixes: K classes.
"""

from __future__ import annotations

import io
from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

# So many classes fit on the page as figures; of more there is a picture, and the first of the order as figures.
MOST_IN_FIGURES = 20
_MOST_PAIRS = 15
_PICTURE_WIDTH = 800
_LEVELS = 10
# Two colours that colour-blind people tell apart (Okabe and Ito): right, and taken for another.
_HIT, _MISS = (0, 114, 178), (213, 94, 0)
ORDERS = {"confused": "Most confused", "accuracy": "Accuracy", "name": "Name"}


@dataclass(frozen=True)
class Cell:
    """Videos of a class that were taken for another; ``level`` is 0 for none, 1 to 10 by their share of the class."""

    videos: int
    level: int
    is_hit: bool


@dataclass(frozen=True)
class Pair:
    """Videos of a class that were taken for another, and their share of the class, 0 to 1."""

    name: str
    taken_for: str
    videos: int
    share: float


@dataclass(frozen=True)
class Confusion:
    """What the page shows: ``corner`` are the first classes of the order "confused", in figures.

    ``picture`` is a PNG as a data URI, ``width`` pixels wide, empty where the corner holds all. ``data`` is what the
    page's script draws other orders from.
    """

    corner: tuple[tuple[str, tuple[Cell, ...]], ...]
    pairs: tuple[Pair, ...]
    picture: str
    width: int
    data: dict[str, Any]


def confusion_of(names: Sequence[str], confusion_KK: np.ndarray, accuracy_K: np.ndarray) -> Confusion:
    """``confusion_KK`` counts videos by label (row) and predicted class; ``accuracy_K`` is NaN where there are none."""
    levels_KK = _levels(confusion_KK)
    found = {
        "confused": _most_confused(confusion_KK),
        "accuracy": np.lexsort((np.arange(len(names)), np.nan_to_num(accuracy_K, nan=2.0))).tolist(),
        "name": sorted(range(len(names)), key=lambda number: (names[number].casefold(), number)),
    }
    first = found["confused"][:MOST_IN_FIGURES]
    corner = [
        (names[i], tuple(Cell(int(confusion_KK[i, j]), int(levels_KK[i, j]), i == j) for j in first)) for i in first
    ]
    rows, columns = np.nonzero(confusion_KK)
    data = {
        "names": list(names),
        "videos": confusion_KK.sum(axis=1).tolist(),
        "cells": np.stack([rows, columns, confusion_KK[rows, columns]], axis=1).ravel().tolist(),
        "orders": found,
        "figures": MOST_IN_FIGURES,
        "levels": _LEVELS,
        "palette": [[*_HIT], [*_MISS]],
        "opacity": _opacities(),
    }
    is_large = len(names) > MOST_IN_FIGURES
    order = found["confused"]
    return Confusion(
        corner=tuple(corner),
        pairs=tuple(_pairs(names, confusion_KK)),
        picture=_picture(levels_KK[np.ix_(order, order)]) if is_large else "",
        width=max(1, _PICTURE_WIDTH // len(names)) * len(names),
        data=data,
    )


def _levels(confusion_KK: np.ndarray) -> np.ndarray:
    """0 where there are no videos, else 1 to 10 by the share of the row, rounded up."""
    shares_KK = confusion_KK / np.maximum(confusion_KK.sum(axis=1, keepdims=True), 1)
    levels: np.ndarray = np.ceil(shares_KK * _LEVELS - 1e-9).astype(np.uint8)
    return levels


def _most_confused(confusion_KK: np.ndarray) -> list[int]:
    """Classes in the order in which the pairs name them, those of the most mistakes first; so pairs are neighbours."""
    both_KK = np.triu(confusion_KK + confusion_KK.T, 1)
    firsts, seconds = np.nonzero(both_KK)
    by_mistakes = np.argsort(-both_KK[firsts, seconds], kind="stable")
    named = np.stack([firsts[by_mistakes], seconds[by_mistakes]], axis=1).ravel().tolist()
    return list(dict.fromkeys([*named, *range(len(confusion_KK))]))


def _pairs(names: Sequence[str], confusion_KK: np.ndarray) -> list[Pair]:
    mistakes_KK = confusion_KK.copy()
    np.fill_diagonal(mistakes_KK, 0)
    videos_K = confusion_KK.sum(axis=1)
    order = np.argsort(-mistakes_KK.ravel(), kind="stable")[:_MOST_PAIRS]
    found = [divmod(int(place), len(names)) for place in order]
    return [
        Pair(names[i], names[j], int(mistakes_KK[i, j]), float(mistakes_KK[i, j] / videos_K[i]))
        for i, j in found
        if mistakes_KK[i, j]
    ]


def _opacities() -> list[int]:
    """Of the levels, 0 to 255; that of the first is seen on white and on black."""
    return [0, *(round(255 * (0.4 + 0.6 * level / _LEVELS)) for level in range(1, _LEVELS + 1))]


def _picture(levels_KK: np.ndarray) -> str:
    is_hit_KK = np.eye(len(levels_KK), dtype=bool)
    places_KK = np.where(is_hit_KK | (levels_KK == 0), levels_KK, levels_KK + _LEVELS).astype(np.uint8)
    opacities = _opacities()
    image = Image.frombytes("P", places_KK.shape, places_KK.tobytes())
    image.putpalette([*_HIT * (_LEVELS + 1), *_MISS * _LEVELS])
    file = io.BytesIO()
    image.save(file, "PNG", optimize=True, transparency=bytes([*opacities, *opacities[1:]]))
    return f"data:image/png;base64,{b64encode(file.getvalue()).decode()}"
