"""The commands that look at a dataset: ``v4d verify``, ``v4d index rebuild``, ``v4d info``. They parse, call, print."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console

if TYPE_CHECKING:
    from collections.abc import Callable

    from preprocess.verify import Verified

_DATA = click.argument("data", type=click.Path(path_type=Path), required=False)
_WORKERS = click.option(
    "--workers",
    type=click.IntRange(1),
    default=os.cpu_count() or 1,
    show_default="one per core",
    help="Processes that read shards.",
)
_console = Console(highlight=False, markup=False, soft_wrap=True)


def _chosen(data: Path | None) -> Path:
    from preprocess.work_folder import choose_dataset

    return data or choose_dataset()


@click.command()
@_DATA
@_WORKERS
@click.option("--deep", is_flag=True, help="Decode every frame too.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def verify(data: Path | None, workers: int, deep: bool, as_json: bool) -> None:
    """Check every byte of a dataset; exit code 1 and a line for each fault if one differs.

    DATA is a preprocessed dataset; by default the one under shards/.

    \b
    Example: v4d verify shards/fights
    """
    import json
    from dataclasses import asdict

    from preprocess.verify import verify as work

    data = _chosen(data)
    with _progress("shards", as_json) as (console, on_shard):
        result = work(data, workers, lambda fault: None if as_json else console.print(str(fault)), on_shard)
    undecodable = _decode(data, as_json) if deep and not result.faults else []
    if as_json:
        click.echo(json.dumps({**_as_document(result), "undecodable": [asdict(fault) for fault in undecodable]}))
    else:
        for line in result.lines():
            _console.print(line)
        if deep:
            said = f"{len(undecodable)} faults" if undecodable else "every frame decodes"
            _console.print(f"{data}: {'not decoded' if result.faults else said}")
    if result.faults or undecodable:
        click.get_current_context().exit(1)


def _as_document(result: Verified) -> dict[str, Any]:
    from dataclasses import asdict

    return {**asdict(result), "data": str(result.data)}


def _decode(data: Path, quiet: bool) -> list[Any]:
    from pipelines.decode_check import decode_faults
    from preprocess.index import read_dataset, shard_name

    dataset = read_dataset(data)
    total = sum(about["videos"] for about in dataset.splits.values())
    found = []
    with _progress("videos decoded", quiet) as (console, on_video):
        for fault in decode_faults(dataset, on_video=lambda done: on_video(done, total)):
            found.append(fault)
            if not quiet:
                where = f"{fault.split}/{shard_name(fault.shard)}: video '{fault.key}': frame {fault.frame}"
                console.print(f"{where} {fault.what}")
    return found


@contextmanager
def _progress(what: str, quiet: bool) -> Iterator[tuple[Console, Callable[[int, int], None]]]:
    """A bar on a terminal, that is gone at the end; and the console to print beside it."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    hidden = quiet or not _console.is_terminal
    with Progress(*columns, console=_console, transient=True, disable=hidden) as bar:
        task = bar.add_task(what, total=None)
        yield bar.console, lambda done, total: bar.update(task, completed=done, total=total)


@click.group()
def index() -> None:
    """Mend what lies beside the shards of a dataset."""


@index.command()
@_DATA
@_WORKERS
def rebuild(data: Path | None, workers: int) -> None:
    """Write index.arrow, rejected.jsonl and dataset.json anew, from the shards alone.

    DATA is a preprocessed dataset; by default the one under shards/.

    \b
    Example: v4d index rebuild shards/fights
    """
    from preprocess.rebuild import rebuild as work

    with _progress("shards", False) as (_, on_shard):
        result = work(_chosen(data), workers, on_shard)
    _console.print(result.line())


@click.command()
@_DATA
@click.option("--classes", is_flag=True, help="Show the videos of every class.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def info(data: Path | None, classes: bool, as_json: bool) -> None:
    """Show what a dataset holds: splits, classes, how it was made, and what was left out.

    DATA is a preprocessed dataset; by default the one under shards/.

    \b
    Example: v4d info shards/fights --classes
    """
    from preprocess.info import read_info

    said = read_info(_chosen(data))
    if as_json:
        click.echo(said.as_json())
        return
    for part in said.show(classes):
        _console.print(part)


COMMANDS = (verify, index, info)
