"""The command ``v4d``: parses, calls, prints."""

from __future__ import annotations

import io
import json
import os
import sys
import time
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
from preprocess.commands import console, make_ordered_actions, preprocess
from preprocess.errors import V4dError
from preprocess.index import VERSION
from v4d.commands import runs
from v4d.evaluation.commands import MAX_BAD_OPTION, compare, evaluate, evaluate_and_say
from v4d.export.commands import export
from v4d.models.commands import models
from v4d.prediction.commands import cam, predict
from v4d.recipes.commands import recipes
from v4d.report.commands import report
from v4d.reproduce.commands import reproduce_command
from v4d.weights.commands import export_weights, import_weights

if TYPE_CHECKING:
    from preprocess.verify import Verified
    from v4d.config import Recipe

_PATH = click.Path(path_type=Path)


class _Group(click.Group):
    """A group whose commands end in one line, not a traceback: exit code 2 for usage, 1 for data."""

    def invoke(self, context: click.Context) -> Any:
        if isinstance(sys.stdout, io.TextIOWrapper):
            # Names may have letters that the locale has not.
            sys.stdout.reconfigure(errors="backslashreplace")
        try:
            return super().invoke(context)
        except (V4dError, OSError) as error:
            if context.params.get("debug"):
                raise
            click.echo(f"v4d: {error}", err=True)
            context.exit(error.exit_code if isinstance(error, V4dError) else 1)
        except KeyboardInterrupt:
            click.echo("v4d: stopped", err=True)
            context.exit(130)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.version_option(VERSION)
@click.option("--debug", is_flag=True, help="Show a traceback where an error ends the command.")
def main(debug: bool) -> None:
    """Train and evaluate video-level 4D CNNs (V4D, ICLR 2020): preprocess, train, eval."""
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
    """Check every byte of a dataset; exit code 1 and a line for each fault if one differs.

    DATA is a preprocessed dataset; by default the one under shards/.

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
    hidden = quiet or not console.is_terminal
    with Progress(*columns, console=console, transient=True, disable=hidden) as bar:
        task = bar.add_task(what, total=None)
        yield bar.console, lambda done, total: bar.update(task, completed=done, total=total)


@main.group()
def index() -> None:
    """Mend what lies beside the shards of a dataset."""


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
@click.option("--data", type=_PATH, help="Preprocessed dataset  [default: the one under shards/]")
@click.option("--recipe", help="Name of a recipe, or a TOML file  [default: the one that fits the dataset and device]")
@click.option("--out", type=_PATH, help="Folder for the run  [default: runs/DATASET-RECIPE]")
@click.option("--gpus", type=click.IntRange(0), help="GPUs to use, 0 for the CPU  [default: all there are]")
@click.option("--procs", type=click.IntRange(1), help="Processes on the CPU, with --gpus 0  [default: 1]")
@click.option("--resume", type=_PATH, metavar="RUN", help="Go on with RUN: all but --data, --gpus, --procs is its own.")
@click.option(
    "--max-restarts", type=click.IntRange(0), default=3, help="How often to begin again after a process was lost."
)
@MAX_BAD_OPTION
@click.option(
    "--keyframe-starts",
    is_flag=True,
    help="Start units on keyframes: less to decode of vp9 and h264, the same of mjpeg.",
)
@click.option(
    "--init",
    metavar="WEIGHTS",
    help="Weights to start from: FILE, RUN, imagenet[=FILE] or imagenet-center[=FILE].",
)
@click.option("--set", "settings", multiple=True, metavar="SECTION.KEY=VALUE", help="Override a value of the recipe.")
@click.option(
    "--track",
    multiple=True,
    type=click.Choice(["wandb", "mlflow", "none"]),
    help="Send the curves there too; none: no longer, with --resume.",
)
def train(
    data: Path | None,
    recipe: str | None,
    out: Path | None,
    gpus: int | None,
    procs: int | None,
    resume: Path | None,
    max_restarts: int,
    max_bad: float | None,
    keyframe_starts: bool,
    init: str | None,
    settings: tuple[str, ...],
    track: tuple[str, ...],
) -> None:
    """Train a recipe on a dataset. A run that was stopped goes on where it was.

    Ctrl-C, SIGTERM and SIGUSR1 stop it at a checkpoint of the next step, with exit code 0; a second Ctrl-C at once.

    \b
    Example: v4d train --gpus 8
    """
    from pipelines import MAX_BAD
    from preprocess.index import read_dataset
    from preprocess.work_folder import choose_dataset
    from v4d.launch import choose_gpus, is_main_process, is_under_a_launcher
    from v4d.recipes.files import load_recipe
    from v4d.runs import choose_recipe, choose_run_to_train, read_record
    from v4d.trackers import see_that_trackers_are_installed

    if "none" in track and set(track) != {"none"}:
        raise click.UsageError("--track none goes with no other --track")
    if resume:
        its_own = {
            "--recipe": bool(recipe),
            "--out": bool(out),
            "--init": bool(init),
            "--set": bool(settings),
            "--keyframe-starts": keyframe_starts,
        }
        if given := [name for name, is_given in its_own.items() if is_given]:
            raise click.UsageError(f"--resume goes on with the recipe and the folder of {resume}: leave out {given[0]}")
        record = read_record(resume)
        if gpus is None and procs is None:
            gpus, procs = record.gpus, None if record.gpus else record.processes
        chosen, run, data = record.recipe, resume, data or record.dataset
        max_bad = record.max_bad if max_bad is None else max_bad
        track = track or record.track
    track = tuple(name for name in track if name != "none")
    gpus = choose_gpus(gpus)
    if gpus and procs:
        raise click.UsageError("--procs is for the CPU: use it with --gpus 0")
    procs = procs or 1
    see_that_trackers_are_installed(track)
    dataset = read_dataset(data or choose_dataset())
    if not resume:
        if keyframe_starts:
            settings = (*settings, "data.keyframe_starts=true")
        if init:
            settings = (*settings, f"train.init={json.dumps(init)}")
        chosen = load_recipe(recipe or choose_recipe(dataset, "cuda" if gpus else "cpu"), settings)
        run = out or choose_run_to_train(dataset, chosen)
    if not is_under_a_launcher():
        chosen.train.share_of(gpus or procs)
    chosen.check_start()
    max_bad = MAX_BAD if max_bad is None else max_bad
    finished = _train(chosen, dataset.root, run, gpus, procs, max_bad, track, max_restarts)
    if finished and is_main_process():
        console.print(f"evaluate it with: v4d eval {run} --u-infer 10")


def _train(
    recipe: Recipe,
    data: Path,
    run: Path,
    gpus: int,
    procs: int,
    max_bad: float,
    track: tuple[str, ...] = (),
    max_restarts: int = 0,
) -> bool:
    """Train, and say so. Returns whether the run is finished."""
    from v4d.launch import is_main_process, launch, show_warnings
    from v4d.train import train as work

    on = f"{gpus} GPU{'s' * (gpus > 1)}" if gpus else f"the CPU, {procs} process{'es' * (procs > 1)}"
    if is_main_process():
        console.print(f"dataset {data}, recipe {recipe.name}, run {run}, on {on}")
    began = time.monotonic()
    show_warnings()
    finished = launch(work, (recipe, data, run, gpus, max_bad, track), gpus, procs, max_restarts)
    if finished and is_main_process():
        console.print(f"trained {run} in {time.monotonic() - began:.0f} s")
    return finished


@main.command()
@click.option("--out", type=_PATH, default=Path("demo"), help="Folder for the demo's videos, shards and runs.")
@click.option("--seed", type=click.IntRange(0, 2**31), default=0, help="Seed of the videos and of training.")
@click.option("--gpus", type=click.IntRange(0, 1), help="1 or 0 for GPU or CPU  [default: the GPU if there is one]")
@click.option("--workers", type=click.IntRange(1), default=os.cpu_count() or 1, show_default="one per core")
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
        if not _train(recipe, shards, run, gpus, 1, MAX_BAD):
            return
        results[name] = evaluate_and_say(Request(run, run / "eval", Protocol(units_infer=UNITS_INFER), batch=8), gpus)
    console.print(comparison(results))


if __name__ == "__main__":
    main()
