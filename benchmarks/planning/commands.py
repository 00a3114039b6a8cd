"""The command ``v4d plan``: parse, call, print."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import click
from rich.console import Console

from preprocess.console import console

_WIDTH = 120


@click.command()
@click.option("--videos", type=click.IntRange(1), required=True, help="Videos to train on, up to 10 million.")
@click.option("--seconds", type=click.FloatRange(0, min_open=True), default=10.0, help="Mean length of a video.")
@click.option("--fps", type=click.FloatRange(0, 240, min_open=True), default=30.0, help="Mean frames per second.")
@click.option("--codec", type=click.Choice(["mjpeg", "vp9", "h264"]), default="mjpeg", help="Codec of the shards.")
@click.option("--recipe", default="k400_v4d_r50", help="Name of a recipe, or a TOML file.")
@click.option("--set", "settings", multiple=True, metavar="SECTION.KEY=VALUE", help="Override a value of the recipe.")
@click.option("--gpus", type=click.IntRange(1), default=8, help="GPUs of all nodes together, up to 1,024.")
@click.option("--gpu", default="h100", help="Kind of GPU: h100 and h200 were measured.")
@click.option("--gpus-per-node", type=click.IntRange(1), default=8, help="GPUs of a node.")
@click.option(
    "--batch-per-gpu",
    type=click.IntRange(1),
    help="Videos of a step on each GPU: sets train.global_batch  [default: the recipe's batch, shared out]",
)
@click.option(
    "--cores-per-gpu",
    type=click.FloatRange(0, min_open=True),
    help="CPU cores a node has for each GPU  [default: as needed]",
)
@click.option(
    "--storage",
    type=click.FloatRange(0, min_open=True),
    help="MB/s that a node reads, at random places  [default: as needed]",
)
@click.option("--disk", type=click.FloatRange(0, min_open=True), help="TB of room for the shards  [default: as needed]")
@click.option(
    "--preprocess-cores",
    type=click.IntRange(1),
    help="Cores that preprocess, of all machines together  [default: no hours are told]",
)
@click.option(
    "--efficiency",
    type=click.FloatRange(0, 1, min_open=True),
    default=1.0,
    help="How fast each of many GPUs is beside one alone.",
)
@click.option(
    "--videos-per-second-per-gpu",
    "rate",
    type=click.FloatRange(0, min_open=True),
    help="Your own figure of the training step, for any kind of GPU  [default: what was measured]",
)
@click.option(
    "--measured",
    type=click.Path(path_type=Path),
    multiple=True,
    help="Figures of your machine: what v4d bench data --json, or v4d preprocess ... --dry-run --json, printed.",
)
@click.option(
    "--extrapolate", is_flag=True, help="Where nothing near was measured, scale what was, by multiply-adds or frames."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def plan(
    videos: int,
    seconds: float,
    fps: float,
    codec: str,
    recipe: str,
    settings: tuple[str, ...],
    gpus: int,
    gpu: str,
    gpus_per_node: int,
    batch_per_gpu: int | None,
    cores_per_gpu: float | None,
    storage: float | None,
    disk: float | None,
    preprocess_cores: int | None,
    efficiency: float,
    rate: float | None,
    measured: tuple[Path, ...],
    extrapolate: bool,
    as_json: bool,
) -> None:
    """Plan room, cores and hours for a dataset and a training run, and say what binds first.

    It rests on what was measured, and names that for each figure. What is taken from other batches or other numbers of
    frames is told of; where nothing near was measured it refuses, unless you give a figure of your own.

    \b
    Example: v4d plan --videos 240000 --recipe k400_v4d_r50 --gpus 8 --gpu h100
    """
    from benchmarks.planning.constants import Figure
    from benchmarks.planning.measured_files import read_measured
    from benchmarks.planning.plan import Asked, Machine, as_document
    from benchmarks.planning.plan import plan as work
    from benchmarks.planning.table import as_tables
    from v4d.recipes.files import load_recipe

    if batch_per_gpu:
        settings = (*settings, f"train.global_batch={batch_per_gpu * gpus}")
    machine = Machine(
        gpu=gpu,
        gpus=gpus,
        gpus_per_node=gpus_per_node,
        cores_per_gpu=cores_per_gpu,
        storage_bytes_per_s=storage * 1e6 if storage else None,
        disk_bytes=disk * 1e12 if disk else None,
        preprocess_cores=preprocess_cores,
    )
    frames = max(1, round(seconds * fps))
    asked = Asked(videos, frames, fps, codec, load_recipe(recipe, settings), machine, efficiency, extrapolate)
    replaced = read_measured(measured, asked)
    if rate:
        replaced = replace(replaced, step=Figure(rate, "videos/s", "given", "--videos-per-second-per-gpu"))
    made = work(asked, replaced)
    if as_json:
        click.echo(json.dumps(as_document(made), indent=2))
        return
    # In a file as on a wide terminal.
    shown = Console(width=max(console.width, _WIDTH))
    for table in as_tables(made):
        shown.print(table)
    for note in made.notes:
        shown.print(f"note: {note}", markup=False, highlight=False)
    shown.print(f"binds first: {made.bound_by}; what would help: {made.relief}", markup=False, highlight=False)
