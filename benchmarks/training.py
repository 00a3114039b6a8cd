"""What the trainer costs beside a bare loop of the same network and loader, by turns in one run.

python -m benchmarks.training [DATA [--videos DIR]] [--recipe NAME] [--gpus N] [--rounds 10] [--set SECTION.KEY=VALUE]

Without DATA the demo's videos are rendered first. The trainer does all that ``v4d train`` does for a step: schedule,
random state, log and curves; no checkpoints and no validation, which a recipe may have as seldom as it likes. The bare
loop computes, learns and takes the next batch. Asked is that the trainer takes at most 3 % longer.

With DIR, the folder of videos that DATA was made of, a third loop is the bare one fed in the way that most train by:
torch's DataLoader, whose workers decode the same frames of the files with decord.
"""

from __future__ import annotations

import argparse
import io
import multiprocessing
import os
import signal
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import redirect_stdout, suppress
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from typing import TypeVar

import torch
import torch.nn.functional as F
from rich.table import Table

import v4d.train
from benchmarks import turns
from benchmarks.files import originals
from benchmarks.routes import WholeFiles
from benchmarks.same_batches import planned
from pipelines import Batch, TrainLoader, decode_threads
from preprocess.console import console
from preprocess.errors import DataError, V4dError
from preprocess.ffmpeg import EncodeOptions
from preprocess.index import Dataset, read_dataset
from preprocess.local import write_shards_locally
from preprocess.ordered_actions import SIZE, list_videos, render
from preprocess.run import preprocess
from v4d.compiling import compiled
from v4d.config import Recipe
from v4d.launch import choose_gpus
from v4d.precision import autocast
from v4d.recipes.files import load_recipe
from v4d.runs import choose_recipe
from v4d.step import build

# The trainer brings its figures from the device as often.
_STEPS = 10
_ASKED = 0.03
_Batch = TypeVar("_Batch")


@dataclass(frozen=True)
class Work:
    """What both loops do: train a recipe on a dataset, on a GPU or the CPU."""

    recipe: Recipe
    data: Path
    gpus: int
    videos: Path | None = None

    @property
    def device(self) -> torch.device:
        return torch.device("cuda", 0) if self.gpus else torch.device("cpu")


@dataclass(frozen=True)
class Turn:
    """Means over the steps of a turn: seconds, those of them spent waiting for the batch, and CPU seconds."""

    step_s: float
    waited_s: float
    cpu_s: float


def _by_turns(batches: Iterator[_Batch]) -> Iterator[_Batch]:
    """The same batches; after each ``_STEPS`` of them the loop's process stands still until it has its next turn.

    What the other loops' turns take does not count in this one's, and while a process stands still no thread of it
    loads ahead.
    """
    waited = 0.0
    began, cpu = time.perf_counter(), turns.cpu_seconds()
    while True:
        for _ in range(_STEPS):
            asked = time.perf_counter()
            batch = next(batches)
            waited += time.perf_counter() - asked
            yield batch
        if torch.cuda.is_initialized():
            torch.cuda.synchronize()
        took = (time.perf_counter() - began, waited, turns.cpu_seconds() - cpu)
        _Turns.line.send(Turn(*(seconds / _STEPS for seconds in took)))
        _Turns.line.recv()
        waited, began, cpu = 0.0, time.perf_counter(), turns.cpu_seconds()


class _Turns(TrainLoader):
    """A loader of batches by turns: it is where both loops with our loader pass at every step."""

    line: Connection

    def __iter__(self) -> Iterator[Batch]:
        return _by_turns(super().__iter__())


class _Step:
    """What anybody would write, of a recipe without the trainer's options."""

    def __init__(self, work: Work, classes: int) -> None:
        config = work.recipe.train
        self._device, self._precision, self._units = work.device, config.precision, work.recipe.data.units
        model, self._optimizer = build(work.recipe, classes, work.device)
        self._compute = compiled(model, config)

    def take(self, x_NCTHW: torch.Tensor, labels_B: torch.Tensor) -> None:
        with autocast(self._precision, self._device):
            logits_BK = self._compute(x_NCTHW, self._units)
        loss = F.cross_entropy(logits_BK.float(), labels_B.to(self._device), ignore_index=-1)
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self._optimizer.step()


def _bare_loop(work: Work) -> None:
    dataset, config = read_dataset(work.data), work.recipe.train
    loader = _Turns(
        dataset,
        "train",
        work.recipe.data.train_sampling(),
        global_batch=config.global_batch,
        seed=config.seed,
        device=work.device,
        threads=decode_threads(),
    )
    step = _Step(work, len(dataset.classes))
    for batch in loader:
        step.take(batch.x, batch.labels_B)


def _decord_loop(work: Work) -> None:
    dataset, take = read_dataset(work.data), work.recipe.data.train_sampling()
    assert work.videos
    device = "cuda" if work.gpus else "cpu"
    asked = turns.Work(work.data, "train", take, work.recipe.train.global_batch, device, decode_threads(), 0.0)
    files = originals(dataset.split("train"), work.videos)
    route = WholeFiles("decord, originals", "decord", files, "processes", 1)
    step = _Step(work, len(dataset.classes))
    threads = torch.get_num_threads()
    for given, samples in zip(_by_turns(route.batches(asked)), planned(dataset, asked), strict=False):
        # The route takes all but one of the threads, for its workers to have them.
        torch.set_num_threads(threads)
        x_NCTHW = given.pictures.unflatten(0, (-1, take.frames)).permute(0, 4, 1, 2, 3)
        step.take(x_NCTHW, torch.tensor([sample.label for sample in samples]))


def _trainer(work: Work) -> None:
    """``v4d train``, without end, validation and checkpoints."""
    endless = {
        "optim": work.recipe.optim.model_copy(update={"epochs": 10**6}),
        "train": work.recipe.train.model_copy(update={"validate_every": 0, "checkpoint_every": 10**9}),
    }
    # In this process alone.
    v4d.train.TrainLoader = _Turns  # type: ignore[attr-defined]
    with tempfile.TemporaryDirectory() as folder, redirect_stdout(io.StringIO()):
        v4d.train.train(work.recipe.model_copy(update=endless), work.data, Path(folder), work.gpus)


_LOOPS = {"bare loop": _bare_loop, "v4d train": _trainer, "DataLoader, decord": _decord_loop}
_BARE, _OURS, _THEIRS = _LOOPS


def _serve(name: str, work: Work, line: Connection) -> None:
    os.setpgid(0, 0)
    _Turns.line = line
    try:
        _LOOPS[name](work)
    except V4dError as error:
        line.send(str(error))


class LoopProcess:
    """A loop's process, which runs in its turns alone."""

    def __init__(self, name: str, work: Work) -> None:
        context = multiprocessing.get_context("spawn")
        self._name, (self._line, theirs) = name, context.Pipe()
        # Not a daemon: these may have no processes of their own, and a DataLoader's workers are.
        self._process = context.Process(target=_serve, args=(name, work, theirs))
        self._process.start()
        theirs.close()
        self.pid = self._process.pid or 0

    def turn(self) -> Turn:
        """The figures of the next turn. Raises DataError if the loop fails."""
        try:
            found = self._line.recv()
        except EOFError:
            found = f"its process ended with exit code {self._process.exitcode}"
        if not isinstance(found, Turn):
            raise DataError(f"{self._name}: {found}")
        self._signal(signal.SIGSTOP)
        return found

    def go_on(self) -> None:
        self._signal(signal.SIGCONT)
        self._line.send(True)

    def end(self) -> None:
        self._signal(signal.SIGKILL)
        self._process.join()

    def _signal(self, number: signal.Signals) -> None:
        """To the process and to what it started, which are a group of their own."""
        with suppress(ProcessLookupError):
            os.killpg(self.pid, number)


def measure(work: Work, rounds: int) -> list[dict[str, Turn]]:
    """A turn of each loop in every round, after one that does not count. Raises DataError if one of them fails."""
    processes: dict[str, LoopProcess] = {}
    found = []
    try:
        for name in loops_of(work):
            processes[name] = LoopProcess(name, work)
            processes[name].turn()
        for _ in range(rounds):
            of_round = {}
            for name, process in processes.items():
                process.go_on()
                of_round[name] = process.turn()
            found.append(of_round)
    finally:
        for process in processes.values():
            process.end()
    return found


def loops_of(work: Work) -> list[str]:
    """The names of the loops that are compared."""
    return [name for name in _LOOPS if work.videos or name != _THEIRS]


def overheads(found: Sequence[dict[str, Turn]]) -> list[float]:
    """How much longer a step of the trainer takes than one of the bare loop, 0.03 is 3 %: of each round, in order."""
    return sorted(of_round[_OURS].step_s / of_round[_BARE].step_s - 1 for of_round in found)


def conclusion(found: Sequence[dict[str, Turn]]) -> str:
    """What the trainer costs, in a line."""
    each = overheads(found)
    beside = ""
    if _THEIRS in found[0]:
        times = median(of_round[_THEIRS].step_s / of_round[_OURS].step_s for of_round in found)
        beside = f"; end to end it is {times:.2f} times as fast as the loop fed by decord"
    return (
        f"a step of the trainer takes {median(each):+.1%} longer: a median of {len(each)} rounds, half of them from "
        f"{each[len(each) // 4]:+.1%} to {each[-1 - len(each) // 4]:+.1%}; asked: at most {_ASKED:.0%}{beside}"
    )


def as_table(work: Work, found: Sequence[dict[str, Turn]]) -> Table:
    """A row for each loop: medians over the rounds."""
    batch = work.recipe.train.global_batch
    on = torch.cuda.get_device_name() if work.gpus else f"{len(os.sched_getaffinity(0))} CPU cores"
    table = Table("loop", title=f"{work.recipe.name}, batches of {batch}, on {on}")
    for column in ("videos/s", "ms per step", "CPU ms per step", "data wait"):
        table.add_column(column, justify="right")
    for name in loops_of(work):
        of_loop = [of_round[name] for of_round in found]
        step, cpu = (median(getattr(turn, of) for turn in of_loop) for of in ("step_s", "cpu_s"))
        wait = median(turn.waited_s / turn.step_s for turn in of_loop)
        table.add_row(name, f"{batch / step:.1f}", f"{step * 1e3:.1f}", f"{cpu * 1e3:.1f}", f"{wait:.1%}")
    return table


def make_dataset(folder: Path, per_class: int = 40) -> Dataset:
    """The demo's dataset, of so many videos of each of its six classes to train on."""
    workers = len(os.sched_getaffinity(0))
    render(folder / "videos", {"train": per_class, "val": 1}, seed=0, workers=workers, on_video=lambda: None)
    executor = partial(write_shards_locally, workers=workers)
    preprocess(list_videos(folder / "videos"), folder / "shards", EncodeOptions(f"{SIZE}x{SIZE}"), executor)
    return read_dataset(folder / "shards")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, nargs="?", help="a preprocessed dataset")
    parser.add_argument("--videos", type=Path, help="the folder of videos that DATA was made of: decord's loop too")
    parser.add_argument("--recipe", help="a recipe's name, or a TOML file; by default the one that fits")
    parser.add_argument("--gpus", type=int, choices=(0, 1), help="1 or 0 for GPU or CPU; by default the GPU if any")
    parser.add_argument("--rounds", type=int, default=10, help="a turn of each loop in every one")
    parser.add_argument("--set", action="append", default=[], metavar="SECTION.KEY=VALUE")
    args = parser.parse_args()
    if args.videos and not args.data:
        parser.error("--videos goes with DATA, which was made of them")
    # As ``v4d train`` has it; for both loops alike.
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    gpus = min(1, choose_gpus(args.gpus))
    with tempfile.TemporaryDirectory() as folder:
        dataset = read_dataset(args.data) if args.data else make_dataset(Path(folder))
        recipe = load_recipe(args.recipe or choose_recipe(dataset, "cuda" if gpus else "cpu"), tuple(args.set))
        work = Work(recipe, dataset.root, gpus, args.videos)
        found = measure(work, args.rounds)
    console.print(as_table(work, found))
    console.print(conclusion(found))


if __name__ == "__main__":
    main()
