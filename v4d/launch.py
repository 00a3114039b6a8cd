"""Where a training process runs: which device, and which rank of how many. One process per GPU."""

from __future__ import annotations

import errno
import gc
import logging
import multiprocessing
import multiprocessing.connection
import os
import queue
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.synchronize import Event
from typing import TypeVar

import torch
import torch.distributed as dist
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from pipelines import decode_threads
from preprocess.console import show_log
from preprocess.errors import Interrupted, UsageError, V4dError, stop_signals

_LOG = logging.getLogger(__name__)
_Result = TypeVar("_Result")

# Slurm sends the third some time before the end: sbatch --signal=USR1@120.
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
# A Ctrl-C reaches the other processes from the terminal; a SIGTERM before they listen is to end them.
_FORWARDED = (signal.SIGINT, signal.SIGUSR1)
_SECONDS_BETWEEN_LOOKS = 0.2
# After a SIGKILL of all of them.
_SECONDS_TO_END = 60.0
# CUDA's hardware queues, to be set before it starts: with its default of 8 the decoder's many small launches are
# falsely serialised with the training stream, which makes a ResNet-18 step 1.29 times slower (H200, DALI 2.4).
QUEUES, WANTED_QUEUES = "CUDA_DEVICE_MAX_CONNECTIONS", 32
# Exit codes beyond those of V4dErrors, from sysexits.h: a fault of the program's own, and one that may pass.
_FAULT, _MAY_PASS = 70, 75

# In a process of its own, what says that an error was the user's to mend.
_told: Event | None = None

# torchrun and the launcher below set it. RANK alone may be a job system's, of another meaning.
_UNDER_A_LAUNCHER = "TORCHELASTIC_RUN_ID"
# What no second try mends.
_TO_MEND = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM)


class _ProcessFailed(V4dError):
    """The first of some processes that failed."""

    def __init__(self, rank: int, count: int, code: int) -> None:
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        super().__init__(f"process {rank} of {count} ended with {how}")
        self.exit_code = code if code in (1, 2) else 1


class LostProcess(V4dError):
    """Another process of the same run is gone, and this one cannot go on without it."""

    exit_code = _MAY_PASS


@dataclass(frozen=True)
class Place:
    """The device and rank of this process."""

    device: torch.device
    rank: int = 0
    ranks: int = 1
    ranks_here: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and speaks to the user."""
        return self.rank == 0

    @property
    def decode_threads(self) -> int:
        """Threads that DALI gets here."""
        return decode_threads(self.ranks_here)


def choose_gpus(asked: int | None) -> int:
    """How many GPUs to use: those asked for, or all there are. Raises UsageError if there are fewer than asked."""
    os.environ.setdefault(QUEUES, str(WANTED_QUEUES))
    present = torch.cuda.device_count()
    if asked is not None and asked > present:
        use = f"--gpus {present}" + ("" if present else ", which trains on the CPU")
        are = "is 1 GPU" if present == 1 else f"are {present or 'no'} GPUs"
        raise UsageError(f"there {are} on this machine, --gpus asks for {asked}: use {use}")
    if asked is None:
        _LOG.info("on %s: --gpus would say otherwise", f"{present} GPUs, all there are" if present else "the CPU")
        return present
    return asked


def is_under_a_launcher() -> bool:
    """Whether torchrun started this process, as one of as many as it was told."""
    return _UNDER_A_LAUNCHER in os.environ


def see_that_tasks_know_of_one_another() -> None:
    """Raise UsageError where Slurm started this process as one of several, and nobody says which of how many it is."""
    tasks = int(os.environ.get("SLURM_STEP_NUM_TASKS", "1"))
    if tasks > 1 and not is_under_a_launcher():
        raise UsageError(
            f"srun started this {tasks} times, each by itself: on one node srun --ntasks 1 v4d train --gpus N, on "
            "several one task for each, with torchrun (docs/clusters.md)"
        )


def processes_of(gpus: int, procs: int) -> int:
    """How many processes work together: one per GPU, ``procs`` on the CPU, or as many as torchrun says."""
    return int(os.environ["WORLD_SIZE"]) if is_under_a_launcher() else gpus or procs


def is_main_process() -> bool:
    """Whether this process is the one that speaks to the user: under torchrun there are others."""
    return not is_under_a_launcher() or os.environ["RANK"] == "0"


def launch(
    work: Callable[..., _Result], arguments: tuple[object, ...], gpus: int, processes: int, max_restarts: int = 0
) -> _Result:
    """Call ``work(*arguments)`` in as many processes as asked for: one per GPU, or ``processes`` on the CPU.

    Under torchrun, or for a single process, it is called in this one. ``work`` must be importable by name, and is to
    hear SIGUSR1: by that signal each process is told of the one that asked this process to stop.

    A process that is lost, by a signal or an error that is not the user's to mend, ends the others, and all begin
    again, at most ``max_restarts`` times. Returns what the first process does. Raises V4dError where they failed,
    Interrupted where a second Ctrl-C ended them at once.
    """
    count = gpus or processes
    if is_under_a_launcher() or count == 1:
        return work(*arguments)
    # The launcher's own report of a failure is a page long; the process that failed has said why in a line.
    for name in ("torch.distributed.elastic", "torch.multiprocessing"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    with stop_signals(STOP_SIGNALS) as asked:
        for restart in range(max_restarts + 1):
            # With the first of these comes a helper process of Python's, which it does not protect from SIGUSR1.
            signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
            told = multiprocessing.get_context("spawn").Event()
            signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGUSR1])
            try:
                return _in_processes(count, asked, work, told, arguments)
            except _ProcessFailed as failed:
                if told.is_set() or restart == max_restarts:
                    error = V4dError(f"{failed}: its last words are above")
                    error.exit_code = failed.exit_code
                    raise error from None
                print(
                    f"v4d: {failed}: restart {restart + 1} of at most {max_restarts}, from the last checkpoint",
                    file=sys.stderr,
                    flush=True,
                )
    raise AssertionError("the last restart returns or raises")


def _in_processes(
    count: int, asked: threading.Event, work: Callable[..., _Result], told: Event, arguments: tuple[object, ...]
) -> _Result:
    """Run them once. Raises _ProcessFailed and Interrupted."""
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=count,
        run_id="v4d",
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        # It would also begin again after an error that is the user's to mend.
        max_restarts=0,
    )
    ended: queue.SimpleQueue[dict[int, _Result] | BaseException] = queue.SimpleQueue()

    def run() -> None:
        # A process that still starts would die of these; it inherits that they wait until it hears them.
        signal.pthread_sigmask(signal.SIG_BLOCK, _FORWARDED)
        result: dict[int, _Result] | BaseException
        try:
            result = elastic_launch(config, _say_plainly)(work, told, *arguments)
        except ChildFailedError as failed:
            rank, failure = failed.get_first_failure()
            result = _ProcessFailed(rank, count, failure.exitcode)
        except BaseException as error:
            result = error
        # What the launcher leaves has threads of its own, and aborts this process if it is still there at its end.
        gc.collect()
        ended.put(result)

    # In the main thread the launcher would take the signals, and kill what is not over 30 seconds later.
    threading.Thread(target=run, daemon=True).start()
    forwarded: set[int | None] = set()
    try:
        while True:
            with suppress(queue.Empty):
                # Not by joining the thread: a Ctrl-C there leaves Python believing that it ended.
                outcome = ended.get(timeout=_SECONDS_BETWEEN_LOOKS)
                break
            if asked.is_set():
                for child in multiprocessing.active_children():
                    if child.pid not in forwarded:
                        forwarded.add(child.pid)
                        with suppress(ProcessLookupError):
                            os.kill(child.pid or 0, signal.SIGUSR1)
    except KeyboardInterrupt:
        for child in multiprocessing.active_children():
            child.kill()
        with suppress(queue.Empty):
            ended.get(timeout=_SECONDS_TO_END)
        raise Interrupted("stopped at once: the same command goes on from the last checkpoint") from None
    if isinstance(outcome, BaseException):
        raise outcome
    return outcome[0]


def _say_plainly(work: Callable[..., _Result], told: Event, *arguments: object) -> _Result:
    """In a process of its own: an error that is the user's to mend is one line here too, and sets ``told``."""
    threading.Thread(target=_end_with_the_launcher, daemon=True).start()
    for number in _FORWARDED:
        # Where nobody listens they do nothing, instead of ending the process.
        signal.signal(number, lambda *_: None)
    show_log()
    global _told
    _told = told
    try:
        return work(*arguments)
    except (V4dError, OSError) as error:
        mends_itself = isinstance(error, LostProcess) if isinstance(error, V4dError) else error.errno not in _TO_MEND
        if not mends_itself:
            told.set()
        print(f"v4d: {error}", file=sys.stderr, flush=True)
        sys.exit(error.exit_code if isinstance(error, V4dError) else 1)
    except Exception:
        # A fault of v4d's own. The launcher would keep it to itself.
        traceback.print_exc()
        sys.exit(_FAULT)


def _end_with_the_launcher() -> None:
    """Nobody would end this process, or go on with its run, once the launcher was killed."""
    launcher = multiprocessing.parent_process()
    if launcher:
        multiprocessing.connection.wait([launcher.sentinel])
        os._exit(_FAULT)


@contextmanager
def this_place(gpus: int) -> Iterator[Place]:
    """This process's place; joins the process group where there are several, and leaves it at the end."""
    ranks = int(os.environ["WORLD_SIZE"]) if is_under_a_launcher() else 1
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    device = torch.device("cuda", local_rank) if gpus else torch.device("cpu")
    if gpus:
        torch.cuda.set_device(device)
    if ranks == 1:
        yield Place(device)
        return
    dist.init_process_group("nccl" if gpus else "gloo", device_id=device if gpus else None)
    try:
        yield Place(device, dist.get_rank(), ranks, int(os.environ["LOCAL_WORLD_SIZE"]))
    except Exception as error:
        # The others notice once this process leaves them, and the launcher then ends it, which has still to say why.
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        if _told and isinstance(error, V4dError):
            _told.set()
        if _is_of_a_lost_process(error):
            reason = str(error).splitlines()[0][:200]
            raise LostProcess(f"process {dist.get_rank()} of {ranks} lost another one: {reason}") from None
        raise
    finally:
        dist.destroy_process_group()


def as_on_main(value: _Result, place: Place) -> _Result:
    """The main rank's value on all ranks: the others may see its files some seconds late."""
    if place.ranks == 1:
        return value
    values = [value]
    dist.broadcast_object_list(values, 0, device=place.device)
    return values[0]


def _is_of_a_lost_process(error: Exception) -> bool:
    # gloo's errors are of no kind of their own.
    return isinstance(error, dist.DistError) or (isinstance(error, RuntimeError) and "/gloo/" in str(error))
