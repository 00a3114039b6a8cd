"""The command ``v4d models``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from preprocess.console import console

if TYPE_CHECKING:
    from rich.console import RenderableType

    from v4d.inference_cost import InferenceCost
    from v4d.models.table import ModelCost


@click.command()
@click.argument("pattern", default="")
@click.option("--classes", type=click.IntRange(1), default=400, help="Classes of the classifier.")
@click.option("--units", type=click.IntRange(1), help="Action units of a video  [default: each network's own]")
@click.option("--frames", type=click.IntRange(1), help="Frames of a unit  [default: each network's own]")
@click.option("--crop", type=click.IntRange(16), help="Pixels of a side  [default: each network's own]")
@click.option("--inference", is_flag=True, help="Show what testing a video costs, by Algorithm 1 and without it.")
@click.option("--u-infer", type=click.IntRange(1, 64), help="Units in test, with --inference  [default: 10]")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def models(
    pattern: str,
    classes: int,
    units: int | None,
    frames: int | None,
    crop: int | None,
    inference: bool,
    u_infer: int | None,
    as_json: bool,
) -> None:
    """Show the networks, with their parameters and multiply-adds in the setting that they are trained in.

    PATTERN chooses among them, as in 'v4d_*'.

    \b
    Example: v4d models --classes 1000
    """
    from v4d.inference_cost import as_tables, inference_costs
    from v4d.models.table import as_table, model_costs

    if u_infer and not inference:
        raise click.UsageError("--u-infer goes with --inference")
    if inference:
        tests = inference_costs(pattern, classes=classes, units=units, frames=frames, crop=crop, units_infer=u_infer)
        _show(tests, as_tables(tests), as_json)
    else:
        costs = model_costs(pattern, classes=classes, units=units, frames=frames, crop=crop)
        _show(costs, as_table(costs), as_json)


def _show(costs: Sequence[ModelCost | InferenceCost], table: RenderableType, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps([asdict(cost) for cost in costs]))
    else:
        console.print(table)
