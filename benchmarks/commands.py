"""The commands ``v4d bench``: parse, call, print."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.console import Console

from preprocess.console import console, notes, shows_progress

if TYPE_CHECKING:
    from benchmarks.comparison import Result
    from benchmarks.turns import Work
    from preprocess.index import Dataset
    from v4d.beside_model import SlowDown
    from v4d.config import Recipe

_PATH = click.Path(path_type=Path)
_WIDTH = 148
_BATCH = {"cpu": 8, "cuda": 64}


@dataclass(frozen=True)
class Shown:
    """Says what is being done."""

    say: Callable[[str], None]

    def turn(self, route: str) -> None:
        self.say(f"measuring {route}")

    def encoded(self, done: int, total: int) -> None:
        self.say(f"encoded {done} of {total} files")


@click.group()
def bench() -> None:
    """Measure how fast it is on this machine.

    \b
    Example: v4d bench data
    """


@bench.command()
@click.argument("data", type=_PATH, required=False)
@click.option("--split", default="train", help="Split to load.")
@click.option("--batch", type=click.IntRange(1), help="Videos at a time  [default: 8 on the CPU, 64 on a GPU]")
@click.option("--units", type=click.IntRange(1), default=4, help="Action units of a video.")
@click.option("--frames", type=click.IntRange(1), default=4, help="Frames of a unit.")
@click.option("--stride", type=click.IntRange(1), default=8, help="Frames from one frame of a unit to the next.")
@click.option("--crop", type=click.IntRange(16), default=224, help="Side of the squares that come out, in pixels.")
@click.option("--seconds", type=click.FloatRange(0, min_open=True), default=5.0, help="Seconds of a turn.")
@click.option("--repeats", type=click.IntRange(1), default=3, help="Turns of each route: the median counts.")
@click.option(
    "--threads",
    type=click.IntRange(1),
    help="Threads, or worker processes, that a route may use  [default: one per core, at most 8, as in training]",
)
@click.option("--gpu/--cpu", default=None, help="Where batches are to be  [default: on the GPU if there is one]")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@click.option(
    "--with-model",
    "recipe",
    is_flag=False,
    flag_value="",
    metavar="[RECIPE]",
    help="Run a recipe's training step beside the loader too, after DATA; with no name the one that fits.",
)
@click.option("--compare", is_flag=True, help="Measure torchcodec, decord, PyAV and DALI's readers on whole files too.")
@click.option("--videos", type=_PATH, help="For --compare: the folder of videos that the dataset was made from.")
@click.option("--limit", type=click.IntRange(1), default=64, help="For --compare: only so many videos of the split.")
@click.option("--work", type=_PATH, help="For --compare: folder to keep encodings in  [default: a temporary one]")
def data(
    data: Path | None,
    split: str,
    batch: int | None,
    units: int,
    frames: int,
    stride: int,
    crop: int,
    seconds: float,
    repeats: int,
    threads: int | None,
    gpu: bool | None,
    as_json: bool,
    recipe: str | None,
    compare: bool,
    videos: Path | None,
    limit: int,
    work: Path | None,
) -> None:
    """Measure the training loader on a dataset, alone and beside what else there is.

    DATA is a preprocessed dataset; by default the one under shards/. Ctrl-C prints what is measured by then.

    \b
    Example: v4d bench data shards/fights --compare --videos data/fights/videos
    """
    from benchmarks.comparison import StoppedEarly, as_json_document, measure
    from benchmarks.contenders import compare_with_rivals, describe, our_loader
    from benchmarks.turns import Work
    from pipelines import Sampling, decode_threads
    from preprocess.index import read_dataset
    from preprocess.work_folder import choose_dataset

    if compare != (videos is not None):
        raise click.UsageError("--compare and --videos DIR go together")
    device = _device(gpu)
    dataset = read_dataset(data or choose_dataset())
    sampling = Sampling(units, frames, stride, crop)
    measured = Work(
        dataset.root, split, sampling, batch or _BATCH[device], device, threads or decode_threads(), seconds
    )
    chosen = None if recipe is None else _chosen_recipe(recipe, dataset, device, batch)
    about = describe(dataset, measured, repeats)
    if not as_json:
        console.print(about.line())
    results: Sequence[Result] = ()
    beside, stopped = None, None
    with progress_line(as_json) as shown:
        try:
            if videos is None:
                results = measure([our_loader(dataset, measured)], measured, repeats, shown.turn)
            else:
                results = compare_with_rivals([dataset], videos, measured, repeats, limit, work, shown)
            beside = _beside_model(chosen, dataset, measured, repeats, shown) if chosen else None
        except KeyboardInterrupt as early:
            stopped, results = early, early.results if isinstance(early, StoppedEarly) else results
    if not results and stopped:
        raise stopped
    if as_json:
        click.echo(as_json_document(about, results, beside))
    else:
        show(results)
        if beside:
            console.print(beside.line())
    if stopped:
        raise stopped


def _chosen_recipe(name: str, dataset: Dataset, device: str, batch: int | None) -> Recipe:
    from v4d.recipes.files import load_recipe
    from v4d.runs import choose_recipe

    return load_recipe(name or choose_recipe(dataset, device), (f"train.global_batch={batch}",) if batch else ())


def _beside_model(recipe: Recipe, dataset: Dataset, measured: Work, repeats: int, shown: Shown) -> SlowDown:
    import torch

    from v4d.beside_model import slow_down

    device = torch.device(measured.device)
    return slow_down(recipe, dataset, measured.split, device, measured.threads, measured.seconds, repeats, shown.turn)


def show(results: Sequence[Result]) -> None:
    """Print what was measured: the table of one route, or of several with a line for each that could not be."""
    from benchmarks.comparison import as_comparison, as_table, problems

    if len(results) == 1:
        console.print(as_table(results[0]))
        return
    # In a file as on a wide terminal.
    Console(width=max(console.width, _WIDTH), soft_wrap=True).print(as_comparison(results))
    for line in problems(results):
        console.print(line)


def _device(gpu: bool | None) -> str:
    """The name of the device: cuda or cpu. Raises UsageError if there is no GPU and one is asked for."""
    from v4d.launch import choose_gpus

    return "cuda" if choose_gpus(None if gpu is None else int(gpu)) else "cpu"


@contextmanager
def progress_line(quiet: bool) -> Iterator[Shown]:
    """What is being done, as a line on a terminal that is gone at the end."""
    from rich.status import Status

    if quiet or not shows_progress():
        yield Shown(lambda text: None)
        return
    with Status("", console=notes) as status:
        yield Shown(status.update)
