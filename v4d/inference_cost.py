"""What testing a video costs: the whole network on all combinations, Algorithm 1 as written, and as it is done here."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.table import Table
from torch import Tensor, nn

from preprocess.errors import UsageError
from v4d.inference import video_scores
from v4d.models.multiply_adds import count_multiply_adds, on_meta
from v4d.models.network import V4D
from v4d.models.registry import registered
from v4d.models.table import chosen_models
from v4d.neighbourhoods import combinations, depths


@dataclass(frozen=True)
class InferenceCost:
    """One way to test a network on a video, one crop.

    The ``way`` is the "whole network" on every combination, Algorithm 1 "as written", or "distinct only", which
    computes each neighbourhood of units once.

    ``unit_passes`` are how many units the layers below the first block that relates units see, then the layers above
    each such block. ``weighted_passes`` is their sum, each weighted with the multiply-adds that its layers take for a
    unit, those below the first block being 1; the blocks that relate units are left out.
    """

    name: str
    way: str
    units_infer: int
    units_train: int
    frames: int
    crop: int
    unit_passes: tuple[int, ...]
    weighted_passes: float
    multiply_adds: int


def inference_costs(
    pattern: str = "",
    *,
    classes: int = 400,
    units: int | None = None,
    frames: int | None = None,
    crop: int | None = None,
    units_infer: int | None = None,
) -> list[InferenceCost]:
    """Three ways for each network that matches ``pattern`` and takes more than one unit of a video.

    Where nothing is given, the setting is that of the network's training, with the crops and units of its test. Raises
    UsageError if no network matches, or there are fewer units in test than in training.
    """
    costs = []
    names = chosen_models(pattern)
    for name in names:
        known = registered(name)
        train = units or known.data.units
        if train == 1:
            continue
        infer = units_infer or known.units_infer
        size = (frames or known.data.frames, crop or known.data.test_crop)
        model, x_NCTHW = on_meta(known.model, classes, infer, *size)
        weights = _weights(model, x_NCTHW)
        for way, passes, products in _ways(model, x_NCTHW, infer, train):
            weighted = sum(units * weight for units, weight in zip(passes, weights, strict=True))
            costs.append(InferenceCost(name, way, infer, train, *size, passes, weighted, products))
    if not costs:
        raise UsageError(f"{', '.join(names)}: one unit of a video, which has no combinations: name more with --units")
    return costs


def _ways(model: V4D, x_NCTHW: Tensor, infer: int, train: int) -> list[tuple[str, tuple[int, ...], int]]:
    """What each way is called, its unit passes, and its multiply-adds."""
    every_MS = combinations(infer, train)
    reaches = [block.reach for block, _ in model.stages_4d]
    distinct = [len(depth.neighbours_NK) for depth in depths(every_MS, reaches)]
    above = [every_MS.size] * len(reaches)

    on_one = _products(lambda: model(x_NCTHW[:train], train))
    below_one = _products(lambda: model.forward_below(x_NCTHW[:train]))
    below_all = _products(lambda: model.forward_below(x_NCTHW))
    return [
        ("whole network", (every_MS.size, *above), len(every_MS) * on_one),
        ("as written", (infer, *above), below_all + len(every_MS) * (on_one - below_one)),
        (
            "distinct only",
            (infer, *distinct, *above[len(distinct) :]),
            _products(lambda: video_scores(model, x_NCTHW, infer, train)),
        ),
    ]


def _weights(model: V4D, x_NCTHW: Tensor) -> list[float]:
    """The multiply-adds of a unit in the layers above each block that relates units, as shares of those below."""
    y = model.forward_below(x_NCTHW[:1])
    products = [_products(lambda: model.forward_below(x_NCTHW[:1]))]
    for _, layers in model.stages_4d:
        above = nn.Sequential(*layers)
        products.append(_products(partial(above, y)))
        y = above(y)
    return [each / products[0] for each in products]


def _products(compute: Callable[[], object]) -> int:
    return count_multiply_adds(compute).products


def as_tables(costs: list[InferenceCost]) -> Group:
    """The costs as ``v4d models --inference`` prints them: a table for each network, of 80 letters at most."""
    tables = []
    for name, ways in itertools.groupby(costs, lambda cost: cost.name):
        *_, least = of_name = list(ways)
        title = f"{name}: {least.units_infer} units of {least.frames} frames, {least.crop} pixels, one crop"
        table = Table(title=title, box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
        table.add_column("way", no_wrap=True)
        for column in ("unit passes", "weighted", "multiply-adds", "ratio"):
            table.add_column(column, justify="right")
        for cost in of_name:
            table.add_row(
                cost.way,
                " + ".join(map(str, cost.unit_passes)),
                f"{cost.weighted_passes:.0f}",
                f"{cost.multiply_adds / 1e9:,.0f} G",
                f"{cost.multiply_adds / least.multiply_adds:.2f}",
            )
        tables.append(table)
    return Group(*tables)
