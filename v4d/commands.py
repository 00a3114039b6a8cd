"""The command ``v4d runs``: parses, calls, prints."""

from __future__ import annotations

import json
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path

import click
from rich.console import Console
from rich.table import Column, Table

_PATH = click.Path(path_type=Path)
console = Console(highlight=False, markup=False, soft_wrap=True)


@click.group(invoke_without_command=True)
@click.option("--folder", type=_PATH, default=Path("runs"), help="Where the runs are.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@click.pass_context
def runs(context: click.Context, folder: Path, as_json: bool) -> None:
    """List the runs: state, step, and the best validation's score.

    \b
    Example: v4d runs
    """
    if context.invoked_subcommand:
        return
    from v4d.runs import list_runs

    found = list(list_runs(folder))
    if as_json:
        click.echo(json.dumps([run.as_document() for run in found], indent=2))
        return
    if not found:
        console.print(f"there is no run in {folder}/")
        return
    table = Table(
        Column("run", overflow="fold", min_width=24), "recipe", "dataset", "state", "step", "best top-1", "last change"
    )
    for run in found:
        score = "" if run.score is None else f"{run.score:.1%}"
        said = (run.recipe, Path(run.dataset).name, run.state, f"{run.step} of {run.steps}", score, _ago(run.changed))
        table.add_row(Path(run.run).name, *said)
    console.print(table)
    for run in found:
        if run.state == "failed":
            console.print(f"{Path(run.run).name} failed: {run.why}")


def _ago(then: datetime) -> str:
    seconds = (datetime.now(timezone.utc) - then).total_seconds()
    for unit, size in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit} ago"
    return f"{max(0, seconds):.0f} s ago"


@runs.command()
@click.argument("run", type=_PATH)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@click.pass_context
def show(context: click.Context, run: Path, as_json: bool) -> None:
    """Show a run: its recipe, dataset, versions, scores by epoch, and checkpoints.

    RUN is the folder of a run, or its name under runs/.

    \b
    Example: v4d runs show fights-v4d_resnet18
    """
    from v4d.runs import checkpoint_sizes, epochs, read_record, summary

    if not run.exists() and context.parent:
        run = context.parent.params["folder"] / run
    record, said, scores, kept = read_record(run), summary(run), epochs(run), checkpoint_sizes(run)
    if as_json:
        of_record = record.model_dump(mode="json", exclude={"end"})
        more = {"epochs": scores, "checkpoints": [asdict(checkpoint) for checkpoint in kept]}
        click.echo(json.dumps({**said.as_document(), **of_record, **more}, indent=2))
        return
    why = f": {said.why}" if said.why else ""
    console.print(f"{run}: {said.state}{why}, step {said.step} of {said.steps}, {_ago(said.changed)}")
    console.print(f"dataset {record.dataset}, fingerprint {record.fingerprint[:12]}")
    versions = ", ".join(f"{name} {version}" for name, version in record.versions.items())
    console.print(f"processes: {record.processes}, on {'a GPU each' if record.gpus else 'the CPU'}; {versions}")
    console.print(f"recipe {record.recipe.name}")
    for section, values in record.recipe.model_dump(mode="json", exclude={"name", "about", "fits"}).items():
        console.print(f"  {section}: " + ", ".join(f"{name} {value}" for name, value in values.items()))
    table = Table("epoch", "loss", "top-1", "validation top-1")
    for epoch in scores:
        score = "" if epoch["val_top1"] is None else f"{epoch['val_top1']:.1%}"
        table.add_row(str(epoch["epoch"]), f"{epoch['loss']:.3f}", f"{epoch['top1']:.1%}", score)
    console.print(table)
    table = Table("checkpoint", "MB", "")
    for checkpoint in kept:
        which = " and ".join(name for name in ("last", "best") if getattr(checkpoint, name))
        table.add_row(str(Path(checkpoint.path).relative_to(run)), f"{checkpoint.bytes / 1e6:.1f}", which)
    console.print(table)
