"""The command ``v4d models``."""

from __future__ import annotations

import json
from dataclasses import asdict

import click
from rich.console import Console


@click.command()
@click.argument("pattern", default="")
@click.option("--classes", type=click.IntRange(1), default=400, help="Classes of the classifier.")
@click.option("--units", type=click.IntRange(1), help="Action units of a video  [default: each network's own]")
@click.option("--frames", type=click.IntRange(1), help="Frames of a unit  [default: each network's own]")
@click.option("--crop", type=click.IntRange(16), help="Pixels of a side  [default: each network's own]")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def models(pattern: str, classes: int, units: int | None, frames: int | None, crop: int | None, as_json: bool) -> None:
    """Show the networks, with their parameters and multiply-adds in the setting that they are trained in.

    PATTERN chooses among them, as in 'v4d_*'.

    \b
    Example: v4d models --classes 1000
    """
    from v4d.models.table import as_table, model_costs

    costs = model_costs(pattern, classes=classes, units=units, frames=frames, crop=crop)
    if as_json:
        click.echo(json.dumps([asdict(cost) for cost in costs]))
    else:
        Console().print(as_table(costs))
