"""The command ``v4d doctor``: parses, calls, prints."""

from __future__ import annotations

import json
import os
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.table import Table

from preprocess.console import console

if TYPE_CHECKING:
    from benchmarks.doctor.finding import Finding


@click.command()
@click.argument("data", type=click.Path(path_type=Path), required=False)
@click.option("--seconds", type=click.FloatRange(0, min_open=True), default=5.0, help="To read DATA, and to load it.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def doctor(data: Path | None, seconds: float, as_json: bool) -> None:
    """Say what this machine has, and what of training would be slow or fail on it, and why.

    DATA is a preprocessed dataset; by default the one under shards/, or none. Exit code 1 if training cannot run.

    \b
    Example: v4d doctor shards/fights
    """
    from benchmarks.doctor.examination import examine

    with tempfile.TemporaryDirectory() as folder:
        found = examine(data, Path(folder), seconds, dict(os.environ))
    if as_json:
        click.echo(json.dumps({"findings": [asdict(one) for one in found], "can_train": not _failing(found)}))
    else:
        _show(found)
    if _failing(found):
        click.get_current_context().exit(1)


def _failing(found: list[Finding]) -> list[str]:
    return [one.about for one in found if one.fails]


def _show(found: list[Finding]) -> None:
    table = Table("check", "", "found")
    for one in found:
        table.add_row(one.about, one.state, one.said)
    console.print(table)
    for one in found:
        if one.state != "ok":
            what = "slow" if one.state == "slow" else "fails"
            console.print(f"{what}: {one.about}: {one.said}" + (f": {one.advice}" if one.advice else ""))
    failing = _failing(found)
    console.print(f"training cannot run: {', '.join(failing)}" if failing else "training can run")
