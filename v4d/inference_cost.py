"""What testing a video costs: the whole network on all combinations, Algorithm 1 as written, and as it is done here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from rich.table import Table
from torch import Tensor

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
    each such block.
    """

    name: str
    way: str
    units_infer: int
    units_train: int
    frames: int
    crop: int
    unit_passes: tuple[int, ...]
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
        for way, passes, products in _ways(model, x_NCTHW, infer, train):
            costs.append(InferenceCost(name, way, infer, train, *size, passes, products))
    if not costs:
        raise UsageError(f"{', '.join(names)}: one unit of a video, which has no combinations: name more with --units")
    return costs


def _ways(model: V4D, x_NCTHW: Tensor, infer: int, train: int) -> list[tuple[str, tuple[int, ...], int]]:
    """What each way is called, its unit passes, and its multiply-adds."""
    every_MS = combinations(infer, train)
    reaches = [block.reach for block, _ in model.stages_4d]
    distinct = [len(depth.neighbours_NK) for depth in depths(every_MS, reaches)]
    above = [every_MS.size] * len(reaches)

    def products(compute: Callable[[], object]) -> int:
        return count_multiply_adds(compute).products

    on_one = products(lambda: model(x_NCTHW[:train], train))
    below_one = products(lambda: model.forward_below(x_NCTHW[:train]))
    below_all = products(lambda: model.forward_below(x_NCTHW))
    return [
        ("whole network", (every_MS.size, *above), len(every_MS) * on_one),
        ("as written", (infer, *above), below_all + len(every_MS) * (on_one - below_one)),
        (
            "distinct only",
            (infer, *distinct, *above[len(distinct) :]),
            products(lambda: video_scores(model, x_NCTHW, infer, train)),
        ),
    ]


def as_table(costs: list[InferenceCost]) -> Table:
    """The costs as ``v4d models --inference`` prints them."""
    table = Table(title="testing one video, one crop")
    table.add_column("model", no_wrap=True)
    table.add_column("way", no_wrap=True)
    for column in ("units x frames", "crop", "unit passes", "multiply-adds", "ratio"):
        table.add_column(column, justify="right", overflow="fold")
    for cost in costs:
        here = next(other for other in reversed(costs) if other.name == cost.name)
        table.add_row(
            cost.name,
            cost.way,
            f"{cost.units_infer} x {cost.frames}",
            str(cost.crop),
            " + ".join(map(str, cost.unit_passes)),
            f"{cost.multiply_adds / 1e9:,.0f} G",
            f"{cost.multiply_adds / here.multiply_adds:.2f}",
        )
    return table
