"""The commands ``v4d train`` and ``v4d runs``: parse, call, print."""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.table import Column, Table

from preprocess.console import console, notes
from v4d.evaluation.commands import MAX_BAD_OPTION

if TYPE_CHECKING:
    from v4d.config import Recipe

_PATH = click.Path(path_type=Path)


@click.command()
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
    finished = train_and_say(chosen, dataset.root, run, gpus, procs, max_bad, track, max_restarts)
    if finished and is_main_process():
        notes.print(f"evaluate it with: v4d eval {run} --u-infer 10")


def train_and_say(
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
    from v4d.checkpoint import last_checkpoint
    from v4d.launch import is_main_process, launch, processes_of, see_that_tasks_know_of_one_another
    from v4d.train import train as work

    see_that_tasks_know_of_one_another()
    count = processes_of(gpus, procs)
    on = f"{count} GPU{'s' * (count > 1)}" if gpus else f"the CPU, {count} process{'es' * (count > 1)}"
    if is_main_process():
        notes.print(f"dataset {data}, recipe {recipe.name}, run {run}, on {on}")
    began, before = time.monotonic(), last_checkpoint(run)
    finished = launch(work, (recipe, data, run, gpus, max_bad, track), gpus, procs, max_restarts)
    # Of one that was finished already nothing was trained, and that has been said.
    if finished and is_main_process() and last_checkpoint(run) != before:
        console.print(f"trained {run} in {time.monotonic() - began:.0f} s")
    return finished


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
        notes.print(f"there is no run in {folder}/")
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
