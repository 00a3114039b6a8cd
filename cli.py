"""The command ``v4d``: registers the commands of all folders, and has those that take more than one of them."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console

from benchmarks.commands import bench
from benchmarks.doctor.commands import doctor
from benchmarks.planning.commands import plan
from preprocess.command_group import CommandGroup
from preprocess.commands import make_ordered_actions, preprocess
from preprocess.console import Verbosity, console, notes, saying, shows_progress, verbosity
from preprocess.index import VERSION
from v4d.commands import runs, train, train_and_say
from v4d.evaluation.commands import compare, evaluate, evaluate_and_say
from v4d.export.commands import export
from v4d.models.commands import models
from v4d.prediction.commands import cam, predict
from v4d.recipes.commands import recipes
from v4d.report.commands import report
from v4d.reproduce.commands import reproduce_command
from v4d.weights.commands import export_weights, import_weights

if TYPE_CHECKING:
    from preprocess.verify import Verified

_PATH = click.Path(path_type=Path)


_SECTIONS = {
    "Preprocess": ("preprocess", "verify", "info", "index", "plan"),
    "Train": ("train", "runs", "recipes", "models", "import-weights", "reproduce"),
    "Evaluate and use": ("eval", "compare", "report", "predict", "cam", "export", "export-weights"),
    "Try and measure": ("demo", "doctor", "bench"),
}


_EPILOG = """
\b
v4d COMMAND --help says more of each. To have your shell complete commands and options:
  eval "$(_V4D_COMPLETE=bash_source v4d)"    # or zsh_source; fish: _V4D_COMPLETE=fish_source v4d | source
"""


def _say_versions(context: click.Context, _parameter: click.Parameter, asked: bool) -> None:
    if asked and not context.resilient_parsing:
        from benchmarks.doctor.versions import installed

        click.echo(f"v4d {VERSION} ({', '.join(f'{name} {version}' for name, version in installed().items())})")
        context.exit()


@click.group(
    cls=CommandGroup,
    sections=_SECTIONS,
    context_settings={"help_option_names": ["-h", "--help"], "show_default": True, "max_content_width": 120},
    epilog=_EPILOG,
)
@click.option("--quiet", is_flag=True, help="Only results, warnings and errors: no progress, no notes.")
@click.option("--verbose", is_flag=True, help="Say what is chosen, and why.")
@click.option("--debug", is_flag=True, help="Say each ffmpeg that is run too, and show a traceback of an error.")
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_say_versions, help="Show versions and exit."
)
@click.pass_context
def main(context: click.Context, quiet: bool, verbose: bool, debug: bool) -> None:
    """Train and evaluate video-level 4D CNNs (V4D, ICLR 2020), from a folder of videos to video-level accuracy.

    \b
    Example: v4d preprocess folder && v4d train && v4d eval
    """
    if quiet and (verbose or debug):
        raise click.UsageError("--quiet goes with neither --verbose nor --debug")
    asked: Verbosity = "quiet" if quiet else "debug" if debug else "verbose" if verbose else verbosity()
    context.with_resource(saying(asked))
    # Torch reads this when it first asks for memory: large pages, where the kernel gives them to who asks. On two cores
    # the layers of the stem then take half of the time, most of which the kernel had for mapping small ones.
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")


main.add_command(preprocess)
main.add_command(models)
main.add_command(bench)
main.add_command(doctor)
main.add_command(plan)
main.add_command(import_weights)
main.add_command(export_weights)
main.add_command(evaluate)
main.add_command(predict)
main.add_command(cam)
main.add_command(compare)
main.add_command(export)
main.add_command(train)
main.add_command(runs)
main.add_command(recipes)
main.add_command(reproduce_command(make_ordered_actions))
main.add_command(report)

_DATASET = click.argument("data", type=_PATH, required=False)
_READERS = click.option(
    "--workers",
    type=click.IntRange(1),
    default=os.cpu_count() or 1,
    show_default="one per core",
    help="Processes that read shards.",
)


def _chosen(data: Path | None) -> Path:
    from preprocess.work_folder import choose_dataset

    return data or choose_dataset()


@main.command()
@_DATASET
@_READERS
@click.option("--deep", is_flag=True, help="Decode every frame too.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def verify(data: Path | None, workers: int, deep: bool, as_json: bool) -> None:
    """Check every byte of a dataset.

    Prints a line for each fault, and ends with exit code 1 if there is one. DATA is a preprocessed dataset; by default
    the one under shards/.

    \b
    Example: v4d verify shards/fights
    """
    from preprocess.verify import verify as work

    data = _chosen(data)
    with _progress("shards", as_json) as (shown, on_shard):
        result = work(data, workers, lambda fault: None if as_json else shown.print(str(fault)), on_shard)
    undecodable = _decode(data, as_json) if deep and not result.faults else []
    if as_json:
        click.echo(json.dumps({**_as_document(result), "undecodable": [asdict(fault) for fault in undecodable]}))
    else:
        for line in result.lines():
            console.print(line)
        if deep:
            said = f"{len(undecodable)} faults" if undecodable else "every frame decodes"
            console.print(f"{data}: {'not decoded' if result.faults else said}")
    if result.faults or undecodable:
        click.get_current_context().exit(1)


def _as_document(result: Verified) -> dict[str, Any]:
    return {**asdict(result), "data": str(result.data)}


def _decode(data: Path, quiet: bool) -> list[Any]:
    from pipelines.decode_check import decode_faults
    from preprocess.index import read_dataset, shard_name

    dataset = read_dataset(data)
    total = sum(about["videos"] for about in dataset.splits.values())
    found = []
    with _progress("videos decoded", quiet) as (shown, on_video):
        for fault in decode_faults(dataset, on_video=lambda done: on_video(done, total)):
            found.append(fault)
            if not quiet:
                where = f"{fault.split}/{shard_name(fault.shard)}: video '{fault.key}': frame {fault.frame}"
                shown.print(f"{where} {fault.what}")
    return found


@contextmanager
def _progress(what: str, quiet: bool) -> Iterator[tuple[Console, Callable[[int, int], None]]]:
    """A bar on a terminal, that is gone at the end; and the console to print beside it."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    shown = shows_progress() and not quiet
    with Progress(*columns, console=notes, transient=True, disable=not shown) as bar:
        task = bar.add_task(what, total=None)
        yield bar.console if shown else console, lambda done, total: bar.update(task, completed=done, total=total)


@main.group()
def index() -> None:
    """Mend what lies beside the shards of a dataset.

    \b
    Example: v4d index rebuild
    """


@index.command()
@_DATASET
@_READERS
def rebuild(data: Path | None, workers: int) -> None:
    """Write index.arrow, rejected.jsonl and dataset.json anew, from the shards alone.

    DATA is a preprocessed dataset; by default the one under shards/.

    \b
    Example: v4d index rebuild shards/fights
    """
    from preprocess.rebuild import rebuild as work

    with _progress("shards", False) as (_, on_shard):
        result = work(_chosen(data), workers, on_shard)
    console.print(result.line())


@main.command()
@_DATASET
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
        console.print(part)


@main.command()
@click.option("--out", type=_PATH, default=Path("demo"), help="Folder for the demo's videos, shards and runs.")
@click.option("--seed", type=click.IntRange(0, 2**31), default=0, help="Seed of the videos and of training.")
@click.option("--gpus", type=click.IntRange(0, 1), help="1 or 0 for GPU or CPU  [default: the GPU if there is one]")
@click.option(
    "--workers",
    type=click.IntRange(1),
    default=os.cpu_count() or 1,
    show_default="one per core",
    help="Processes that render and preprocess.",
)
def demo(out: Path, seed: int, gpus: int | None, workers: int) -> None:
    """Show in minutes what 4D convolution is for.

    Renders short videos whose classes differ only in the order of four sub-actions, preprocesses them, trains V4D
    and TSN (the same network without 4D blocks) with one budget, and compares them on held-out videos.

    \b
    Example: v4d demo
    """
    from pipelines import MAX_BAD
    from v4d.demo import UNITS_INFER, VIDEOS_PER_CLASS, comparison, rivals
    from v4d.evaluation.evaluate import Request
    from v4d.evaluation.protocols import Protocol
    from v4d.launch import choose_gpus

    gpus = min(1, choose_gpus(gpus))
    root = out / f"seed-{seed}"
    videos, shards = root / "data" / "ordered-actions" / "videos", root / "shards" / "ordered-actions"
    make_ordered_actions(videos, shards, VIDEOS_PER_CLASS, seed, workers)
    results = {}
    for name, recipe in rivals(seed).items():
        run = root / "runs" / name.lower()
        if not train_and_say(recipe, shards, run, gpus, 1, MAX_BAD):
            return
        results[name] = evaluate_and_say(Request(run, run / "eval", Protocol(units_infer=UNITS_INFER), batch=8), gpus)
    console.print(comparison(results))


if __name__ == "__main__":
    main()
