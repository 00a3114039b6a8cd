"""Measures routes by turns: each turn of each in a process of its own, so that no route is in another's way."""

from __future__ import annotations

import importlib
import multiprocessing
import os
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import islice
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import torch

from pipelines import Sampling
from preprocess.errors import V4dError, stop_signals

_WARM_UP = 2
_SMALLEST_TURN = 2
# A process that has given nothing for so long, beyond the turn's own time, hangs.
_PATIENCE_S = 600.0
# What packages want besides, which no index of Python packages has.
_WANTS = {"torchcodec": "it wants FFmpeg's shared libraries (Debian: apt-get install ffmpeg)"}


@dataclass(frozen=True)
class Work:
    """What every route is to do: batches of ``batch`` videos of a split, as ``sampling`` has them, on ``device``.

    ``threads`` are the threads, or the processes, that a route may keep busy, and ``seconds`` how long a turn lasts.
    """

    data: Path
    split: str
    sampling: Sampling
    batch: int
    device: str
    threads: int
    seconds: float


class Given(NamedTuple):
    """A batch as a route hands it out, uint8 (B·U·T, H, W, C) on the device, and the frames decoded for it."""

    pictures: torch.Tensor
    decoded: int | None


class Route(Protocol):
    """A way to get batches. It is sent to other processes, where ``needs`` (modules) are imported."""

    @property
    def name(self) -> str: ...

    @property
    def needs(self) -> tuple[str, ...]: ...

    @property
    def at_a_time(self) -> int:
        """How many batches are finished at about the same time: a turn counts a multiple of them."""
        ...

    def batches(self, work: Work) -> Iterator[Given]:
        """Batches without end."""
        ...


@dataclass(frozen=True, eq=False)
class Turn:
    """What one turn of a route came to.

    Videos handed out, seconds and CPU seconds that took, bytes read from files by system calls, frames decoded (None:
    the route does not tell), and, of the first batch, the pictures of some videos, uint8 (pictures, H, W, C).
    """

    videos: int
    seconds: float
    cpu_seconds: float
    bytes_read: int
    decoded: int | None
    first: np.ndarray

    @property
    def videos_per_s(self) -> float:
        return self.videos / self.seconds


class RouteFailed(V4dError):
    """A route that cannot be measured here."""


def take_turn(route: Route, work: Work) -> Turn:
    """Measure a route in a fresh process. Raises RouteFailed, with its last words, if it fails or hangs."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_in_the_process, args=(route, work, theirs))
    try:
        start_deaf(process)
        theirs.close()
        if not ours.poll(work.seconds + _PATIENCE_S):
            raise RouteFailed(f"it gave nothing in {work.seconds + _PATIENCE_S:g} s")
        found = ours.recv()
    except EOFError:
        process.join()
        raise RouteFailed(f"its process ended with exit code {process.exitcode}") from None
    finally:
        # The number of one that is gone may be another's by now.
        if process.is_alive() and process.pid:
            _kill(_family(process.pid))
            process.join()
    if isinstance(found, str):
        raise RouteFailed(found)
    assert isinstance(found, Turn)
    return found


def start_deaf(process: SpawnProcess) -> None:
    """Start a process that Ctrl-C does not reach: it goes to every process of a terminal, and this one ends that one.

    Raises KeyboardInterrupt, once it is started, if Ctrl-C comes meanwhile.
    """
    # It comes with the first process of this kind, and unblocks what is blocked below.
    resource_tracker.ensure_running()
    with stop_signals((signal.SIGINT,), second_ends=False) as asked:
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
    if asked.is_set():
        raise KeyboardInterrupt


def _in_the_process(route: Route, work: Work, answer: Connection) -> None:
    batches: Iterator[Given] = iter(())
    try:
        for module in route.needs:
            _load(module)
        batches = route.batches(work)
        answer.send(_measure(batches, route.at_a_time, work))
    except V4dError as error:
        answer.send(str(error))
    except Exception as error:
        said = str(error).strip().splitlines() or [""]
        answer.send(f"{type(error).__name__}: {said[0]}")
    finally:
        answer.close()
        # ``batches`` is left as it is: workers stop at once, and do not end the batches that nobody wants.
        _kill(_family(os.getpid())[1:])
        os._exit(0)


def _kill(processes: list[int]) -> None:
    for process in processes:
        with suppress(OSError):
            os.kill(process, signal.SIGKILL)


def _load(module: str) -> None:
    try:
        importlib.import_module(module)
    except (ImportError, OSError, RuntimeError) as error:
        package = module.partition(".")[0]
        why = _WANTS.get(package) or str(error).strip().partition("\n")[0]
        raise RouteFailed(f"{package} is installed but does not load: {why}") from None


def _measure(batches: Iterator[Given], at_a_time: int, work: Work) -> Turn:
    batches = _on_the_device(batches)
    first = next(batches)
    # Of two videos: as much as a look at the pixels needs.
    some = first.pictures[: 2 * work.sampling.units * work.sampling.frames].cpu().numpy().copy()
    for _ in islice(batches, max(_WARM_UP, at_a_time) - 1):
        pass
    began, cpu, read = time.perf_counter(), cpu_seconds(), bytes_read()
    taken, decoded, seconds = 0, 0, 0.0
    for given in batches:
        taken += 1
        decoded = -1 if given.decoded is None or decoded < 0 else decoded + given.decoded
        seconds = time.perf_counter() - began
        if seconds >= work.seconds and taken >= _SMALLEST_TURN and taken % at_a_time == 0:
            break
    turn = Turn(taken * work.batch, seconds, cpu_seconds() - cpu, bytes_read() - read, decoded, some)
    return replace(turn, decoded=None) if decoded < 0 else turn


def _on_the_device(batches: Iterator[Given]) -> Iterator[Given]:
    """The batches, each when it is there."""
    for given in batches:
        if given.pictures.is_cuda:
            torch.cuda.current_stream(given.pictures.device).synchronize()
        yield given


def cpu_seconds() -> float:
    """CPU time of this process, all its threads, and the processes it has started."""
    ticks = 0
    for process in _family(os.getpid()):
        with suppress(OSError):
            # The name of the program, in brackets, may hold spaces.
            fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def bytes_read() -> int:
    """Bytes that this process and those it has started have read by system calls; not those of mapped files."""
    return _io("rchar")


def bytes_from_storage() -> int:
    """Bytes that storage has given for this process and those it has started, mapped files too; not those cached."""
    return _io("read_bytes")


def _io(field: str) -> int:
    read = 0
    for process in _family(os.getpid()):
        with suppress(OSError):
            lines = Path(f"/proc/{process}/io").read_text().splitlines()
            read += int(dict(line.split(": ") for line in lines)[field])
    return read


def _family(process: int) -> list[int]:
    """A process and all that it has started, and these in turn."""
    family = [process]
    for process in family:
        # A thread, or a process, may end meanwhile.
        with suppress(OSError):
            for thread in Path(f"/proc/{process}/task").iterdir():
                with suppress(OSError):
                    family += map(int, (thread / "children").read_text().split())
    return family
