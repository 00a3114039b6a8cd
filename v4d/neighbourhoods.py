"""Which unit features of Algorithm 1 differ: those whose neighbourhoods do, each of which is computed once.

In test a video has more units than sections, and every combination of one unit per section is scored. After blocks that
reach r units to each side, all together, the feature of the unit in section s depends on the units that the combination
has in sections s - r to s + r alone. Combinations that agree there share it.

Shape suffixes: M combinations, S sections (U_train), N distinct features, K = 2·reach + 1 neighbours.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import prod

import numpy as np

from preprocess.errors import UsageError

_MOST_COMBINATIONS = 1 << 20


@dataclass(frozen=True, eq=False)
class Depth:
    """The features above one block that relates units.

    ``of_MS`` (int64) says which of them is that of each combination's unit. ``neighbours_NK`` (int64) says which
    features below the block each is made of, from the section ``reach`` to the left to that to the right, -1 where
    there is no such section.
    """

    of_MS: np.ndarray
    neighbours_NK: np.ndarray


def sections(units_infer: int, units_train: int) -> list[range]:
    """The units of each section, which are those whose centres lie in it: sections of near-equal size.

    Sections are equal parts of the video, each without its end, as in sampling. Centres of 10 units lie 0.2, 0.6, 1.0,
    1.4 ... fourths into it, so four sections hold 2, 3, 2 and 3. Raises UsageError if there are fewer units than
    sections.
    """
    if units_infer < units_train:
        raise UsageError(
            f"--u-infer {units_infer} is below the {units_train} units that the network was trained on: "
            f"use {units_train} or more"
        )
    # The first unit with 2·unit + 1 >= 2·section·units_infer / units_train.
    bounds = [-(-(2 * i * units_infer - units_train) // (2 * units_train)) for i in range(units_train + 1)]
    return [range(low, high) for low, high in itertools.pairwise(bounds)]


def combination_count(units_infer: int, units_train: int) -> int:
    """How many choices of one unit per section there are.

    Raises UsageError if they are more than 1,048,576, or there are fewer units than sections.
    """
    count = prod(map(len, sections(units_infer, units_train)))
    if count > _MOST_COMBINATIONS:
        raise UsageError(
            f"--u-infer {units_infer} with {units_train} units in training makes {count:,} combinations, more than "
            f"{_MOST_COMBINATIONS:,}: use fewer units"
        )
    return count


def combinations(units_infer: int, units_train: int) -> np.ndarray:
    """Every choice of one unit per section, (M, S) int64, in lexicographic order.

    Raises UsageError as ``combination_count``.
    """
    combination_count(units_infer, units_train)
    grids = np.meshgrid(*sections(units_infer, units_train), indexing="ij")
    return np.stack([grid.ravel() for grid in grids], axis=1)


def depths(combinations_MS: np.ndarray, reaches: Sequence[int | None]) -> list[Depth]:
    """The features above each of some blocks, by how far these reach to each side.

    It ends before a block whose input has a feature for each unit of each combination, and before one that reaches all
    units (None): from there on combinations have nothing in common.
    """
    count, width = combinations_MS.shape
    found: list[Depth] = []
    of_MS, total = combinations_MS, 0
    for reach in reaches:
        if reach is None or total >= width - 1:
            break
        total += reach
        above_MS, neighbours = np.empty_like(of_MS), []
        first = 0
        for section in range(width):
            window = combinations_MS[:, max(0, section - total) : section + total + 1]
            _, shown_by, which = np.unique(window, axis=0, return_index=True, return_inverse=True)
            above_MS[:, section] = first + which.reshape(count)
            first += len(shown_by)
            beside = range(section - reach, section + reach + 1)
            nobody = np.full(len(shown_by), -1)
            neighbours.append(np.stack([of_MS[shown_by, s] if 0 <= s < width else nobody for s in beside], axis=1))
        found.append(Depth(above_MS, np.concatenate(neighbours)))
        of_MS = above_MS
    return found


@lru_cache(maxsize=16)
def chunks(
    units_infer: int, units_train: int, reaches: tuple[int | None, ...], most: int, most_combinations: int
) -> list[tuple[np.ndarray, list[Depth]]]:
    """All combinations with the features they need, in parts that hold at most ``most`` features at any depth.

    No part has more than ``most_combinations``, and none less than one, whatever that takes. Neighbouring combinations,
    which share most, stay together; what two parts share is computed for each.
    """
    every_MS = combinations(units_infer, units_train)
    parts = min(len(every_MS), -(-len(every_MS) // max(1, most_combinations)))
    while True:
        split = [(part_MS, depths(part_MS, reaches)) for part_MS in np.array_split(every_MS, parts)]
        if parts == len(every_MS) or all(_features(part_MS, found, reaches) <= most for part_MS, found in split):
            return split
        parts = min(2 * parts, len(every_MS))


@lru_cache(maxsize=64)
def windows(units: int, width: int, reaches: tuple[int | None, ...]) -> tuple[np.ndarray, list[Depth]]:
    """Every ``width`` units in a row, (M, S) int64, with the features that they need."""
    windows_MS = np.arange(units - width + 1)[:, None] + np.arange(width)
    return windows_MS, depths(windows_MS, reaches)


def _features(part_MS: np.ndarray, found: list[Depth], reaches: tuple[int | None, ...]) -> int:
    """The most features that a part has at any depth above the first block."""
    # Where depths end before the blocks do, each combination has features of its own from there on.
    own = part_MS.size if len(found) < len(reaches) else 0
    return max([own, *(len(depth.neighbours_NK) for depth in found)])
