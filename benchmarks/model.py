"""The networks beside the same written plainly, and beside pytorchvideo's, by turns in one run: time and memory.

python -m benchmarks.model [--depth 18 50] [--crop 224] [--rounds 3] [--seconds 2] [--device cpu] [--compile]

*train* is a step of training on a batch, *forward* the network in eval mode on it, *test* a whole test of a video by
Algorithm 1 (10 units, 36 combinations). *Plain* is V4D with Conv3d in the default layout and a loop over units for the
4D convolution (see plain_network); it is tested on every combination, or *as written*: the layers below the first 4D
block once per unit, those above it on every combination. Ours computes each distinct neighbourhood of units once.

Recipes compute in bfloat16, so both networks do too; on a GPU ours does only that. --compile adds torch.compile.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import resource
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from statistics import median

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from benchmarks.foreign_networks import slow_r50
from benchmarks.plain_network import PlainV4D
from benchmarks.turns import start_deaf
from preprocess.console import console
from v4d.compiling import compiled
from v4d.config import TrainConfig
from v4d.inference import video_scores
from v4d.models.folding import fold_norms
from v4d.models.network import V4D
from v4d.models.registry import registered
from v4d.models.units import taken
from v4d.neighbourhoods import combinations

CLASSES, UNITS, UNITS_IN_TEST = 400, 4, 10


@dataclass(frozen=True)
class Job:
    """What one way does again and again: ``videos`` at a time, of units of ``frames`` frames of ``crop`` pixels."""

    way: str
    task: str
    network: str
    videos: int
    frames: int
    crop: int
    device: str
    compiled: bool = False
    precision: str = "fp32"

    @property
    def title(self) -> str:
        """What is compared: jobs of one title do the same."""
        return f"{self.task}, {self.network}, {self.videos} x {self.frames} frames at {self.crop}"


def _units(job: Job, units: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    size = (job.videos * units, 3, job.frames, job.crop, job.crop)
    return torch.randint(0, 256, size, dtype=torch.uint8, generator=generator).to(job.device)


def _ours(job: Job) -> V4D:
    model = V4D(registered(job.network).model, CLASSES).to(job.device, memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
    assert isinstance(model, V4D)
    return model if job.task == "train" else fold_norms(model)


def _as_is(x: Tensor) -> Tensor:
    return x


def _channels_last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last_3d)


def prepared(job: Job) -> Callable[[], object]:
    """The job as a function, with everything made that is made once."""
    torch.manual_seed(0)
    # As ``v4d train`` has it.
    torch.backends.cudnn.benchmark = job.task == "train"
    if job.way.startswith("pytorchvideo"):
        theirs = slow_r50().to(job.device).train(job.task == "train")
        pixels = _units(job, 1).float() / 255
        compute = _in_precision(job, lambda: theirs(pixels))
        return _training(theirs, compute, job) if job.task == "train" else torch.no_grad()(compute)
    units = registered(job.network).data.units
    if job.way.startswith("plain"):
        model: nn.Module = PlainV4D(registered(job.network).model, CLASSES).to(job.device).train(job.task == "train")
        layout = _as_is
    else:
        model, layout = _ours(job), _channels_last
    if job.task == "test":
        return torch.no_grad()(_in_precision(job, _test(job, model, layout(_units(job, UNITS_IN_TEST)))))
    network = compiled(model, TrainConfig(compile=job.compiled))
    x = layout(_units(job, units))
    compute = _in_precision(job, lambda: network(x, units))
    return _training(model, compute, job) if job.task == "train" else torch.no_grad()(compute)


def _in_precision(job: Job, compute: Callable[[], Tensor]) -> Callable[[], Tensor]:
    def computed() -> Tensor:
        with torch.autocast(job.device, torch.bfloat16, enabled=job.precision == "bf16"):
            return compute()

    return computed


def _training(model: nn.Module, compute: Callable[[], Tensor], job: Job) -> Callable[[], object]:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    labels = torch.arange(job.videos, device=job.device)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        F.cross_entropy(compute().float(), labels).backward()
        optimizer.step()

    return step


def _test(job: Job, model: nn.Module, x_NCTHW: Tensor) -> Callable[[], Tensor]:
    chosen = torch.from_numpy(combinations(UNITS_IN_TEST, UNITS))
    if isinstance(model, V4D):
        ours = model

        def as_written() -> Tensor:
            # Some combinations at a time, which is faster than one.
            below, scores = ours.forward_below(x_NCTHW), []
            for some in chosen.split(6):
                above = ours.forward_above(taken(below, some.ravel()), UNITS)
                scores.append(ours.forward_head(above, UNITS).softmax(dim=1))
            return torch.cat(scores).mean(dim=0, keepdim=True)

        return as_written if "as written" in job.way else lambda: video_scores(ours, x_NCTHW, UNITS_IN_TEST, UNITS)
    assert isinstance(model, PlainV4D)
    plain = model

    def every_combination() -> Tensor:
        of_video = x_NCTHW.unflatten(0, (-1, UNITS_IN_TEST))
        scores = [plain(of_video[:, one].flatten(0, 1), UNITS).softmax(dim=1) for one in chosen]
        return torch.stack(scores).mean(dim=0)

    def once_per_unit() -> Tensor:
        below = plain.forward_below(x_NCTHW).unflatten(0, (-1, UNITS_IN_TEST))
        scores = [plain.forward_above(below[:, one].flatten(0, 1), UNITS).softmax(dim=1) for one in chosen]
        return torch.stack(scores).mean(dim=0)

    return once_per_unit if "as written" in job.way else every_combination


def _serve(job: Job, threads: int, seconds: float, line: Connection) -> None:
    """Do the job for a turn each time it is asked for: answers with seconds per video and peak memory in MB.

    The first turn is to warm up. Between turns a GPU's memory is free for others. What cannot be done is answered with
    the reason.
    """
    torch.set_num_threads(threads)
    on_gpu = job.device == "cuda"
    run: Callable[[], object] | None = None

    def turn(run: Callable[[], object]) -> float:
        began, count = time.perf_counter(), 0
        while count == 0 or time.perf_counter() - began < seconds:
            run()
            if on_gpu:
                torch.cuda.synchronize()
            count += 1
        return (time.perf_counter() - began) / (count * job.videos)

    while line.recv():
        answer: tuple[float, float] | str
        try:
            if run is None:
                run = prepared(job)
                run()
            answer = turn(run), _peak_memory(on_gpu)
        except torch.OutOfMemoryError:
            answer = "memory does not suffice"
        except ImportError as missing:
            answer = str(missing)
        if on_gpu:
            torch.cuda.empty_cache()
        line.send(answer)


def _peak_memory(on_gpu: bool) -> float:
    if on_gpu:
        return torch.cuda.max_memory_allocated() / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


@dataclass
class Result:
    """Seconds per video of each round, and peak memory in MB, or the problem that it met."""

    job: Job
    seconds: list[float] = field(default_factory=list)
    peak: float = 0.0
    problem: str = ""


def measure(jobs: list[Job], rounds: int, seconds: float, threads: int) -> list[Result]:
    """Each job in a process of its own, a turn of each in every round."""
    context = multiprocessing.get_context("spawn")
    results, lines = [Result(job) for job in jobs], []
    processes: list[SpawnProcess] = []
    try:
        for job in jobs:
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(job, threads, seconds, theirs), daemon=True)
            processes.append(process)
            start_deaf(process)
            theirs.close()
            lines.append(ours)
        for number in range(rounds + 1):
            for result, line in zip(results, lines, strict=True):
                line.send(True)
                answer = line.recv()
                if isinstance(answer, str):
                    result.problem = answer
                elif number:
                    result.seconds.append(answer[0])
                    result.peak = answer[1]
    finally:
        for process in processes:
            if process.pid:
                process.kill()
                process.join()
    return results


def jobs_of(depth: int, crop: int, device: str, compiled: bool) -> list[list[Job]]:
    """The comparisons of one depth; the first job of each is what the others are compared with."""
    network, frames = f"v4d_resnet{depth}", registered(f"v4d_resnet{depth}").data.frames
    batch = ({18: 2, 50: 1} if device == "cpu" else {18: 64, 50: 16})[depth]
    found = []
    on_cpu = device == "cpu"
    ours = "fp32" if on_cpu else "bf16"
    for task in ("train", "forward"):
        size = (task, network, batch, frames, crop, device)
        ways = [Job("plain", *size), Job("plain, bf16", *size, precision="bf16"), Job("v4d", *size, precision=ours)]
        if on_cpu:
            ways.append(Job("v4d, bf16", *size, precision="bf16"))
        if compiled:
            ways.append(Job("v4d, compiled", *size, compiled=True, precision=ours))
        found.append(ways)
    # A test takes a hundred times as long as a step: of ResNet-50 with a quarter of the pixels on a CPU.
    size = ("test", network, 1, frames, crop // 2 if depth == 50 and on_cpu else crop, device)
    tests = [Job(way, *size, precision=ours) for way in ("plain", "plain, as written", "v4d, as written", "v4d")]
    found.append([*tests, *([Job("v4d, bf16", *size, precision="bf16")] if on_cpu else [])])
    if depth == 50:
        for task in ("train", "forward"):
            size = (task, "i3d_s_resnet50", 2 * batch, 8, crop, device)
            found.append([Job(way, *size, precision=ours) for way in ("pytorchvideo slow_r50", "v4d")])
    return found


def as_table(comparisons: list[list[Result]]) -> Table:
    """A row for each way, with how many times as fast it is as the first of its comparison: the median over rounds."""
    table = Table("what", "way", title="by turns in one run")
    for column in ("ms per video", "videos/s", "times as fast", "peak memory, MB"):
        table.add_column(column, justify="right")
    for results in comparisons:
        for number, result in enumerate(results):
            if result.problem:
                table.add_row(result.job.title if number == 0 else "", result.job.way, result.problem)
                continue
            first = results[0]
            ratio = "" if number == 0 or first.problem else f"{_times_as_fast(result, first):.2f}"
            table.add_row(
                result.job.title if number == 0 else "",
                result.job.way,
                _milliseconds(median(result.seconds)),
                f"{1 / median(result.seconds):,.1f}",
                ratio,
                f"{result.peak:,.0f}",
                end_section=number == len(results) - 1,
            )
    return table


def _times_as_fast(result: Result, first: Result) -> float:
    return median(a / b for a, b in zip(first.seconds, result.seconds, strict=True))


def _milliseconds(seconds: float) -> str:
    return f"{seconds * 1e3:,.2f}" if seconds < 0.1 else f"{seconds * 1e3:,.0f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--depth", type=int, nargs="+", choices=(18, 50), default=[18, 50])
    parser.add_argument("--crop", type=int, default=224)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=2.0, help="of a turn, at least")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--compile", action="store_true", help="torch.compile too")
    args = parser.parse_args()
    # As ``v4d train`` and ``v4d eval`` have it; for all ways alike.
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    threads = len(os.sched_getaffinity(0))
    comparisons = []
    with suppress(KeyboardInterrupt):
        # Ctrl-C prints what is measured by then.
        for depth in args.depth:
            for jobs in jobs_of(depth, args.crop, args.device, args.compile):
                comparisons.append(measure(jobs, args.rounds, args.seconds, threads))
    # In a file as on a wide terminal.
    Console(width=max(console.width, 140)).print(as_table(comparisons))


if __name__ == "__main__":
    main()
