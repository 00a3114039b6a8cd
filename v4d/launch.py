"""Where a training process runs: which device, and which rank of how many. One process per GPU."""

from __future__ import annotations

import logging
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from pipelines import decode_threads
from preprocess.errors import Interrupted, UsageError, V4dError

# torchrun and the launcher below set it. RANK alone may be a job system's, of another meaning.
_UNDER_A_LAUNCHER = "TORCHELASTIC_RUN_ID"


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
    # Before CUDA starts: with its default of 8 hardware queues the decoder's many small launches are falsely
    # serialised with the training stream, which makes a ResNet-18 step 1.29 times slower (H200, DALI 2.4).
    os.environ.setdefault("CUDA_DEVICE_MAX_CONNECTIONS", "32")
    present = torch.cuda.device_count()
    if asked is not None and asked > present:
        use = f"--gpus {present}" + ("" if present else ", which trains on the CPU")
        are = "is 1 GPU" if present == 1 else f"are {present or 'no'} GPUs"
        raise UsageError(f"there {are} on this machine, --gpus asks for {asked}: use {use}")
    return present if asked is None else asked


class _ToStandardError(logging.Handler):
    """A line for each record, wherever standard error goes by then: a progress bar puts its own in its place."""

    def emit(self, record: logging.LogRecord) -> None:
        print(f"v4d: {record.getMessage()}", file=sys.stderr, flush=True)


def show_warnings() -> None:
    """Let the data path's warnings, as of videos that are left out, come to the user. To be called once or more."""
    log = logging.getLogger("pipelines")
    if not any(isinstance(handler, _ToStandardError) for handler in log.handlers):
        log.addHandler(_ToStandardError(logging.WARNING))


def launch(work: Callable[..., None], arguments: tuple[object, ...], gpus: int, processes: int) -> None:
    """Call ``work(*arguments)`` in as many processes as asked for: one per GPU, or ``processes`` on the CPU.

    Under torchrun, or for a single process, it is called in this one. ``work`` must be importable by name.
    """
    count = gpus or processes
    if _UNDER_A_LAUNCHER in os.environ or count == 1:
        work(*arguments)
        return
    # The launcher's own report of a failure is a page long; the process that failed has said why in a line.
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=count,
        run_id="v4d",
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
    )
    try:
        elastic_launch(config, _say_plainly)(work, *arguments)
    except ChildFailedError as failed:
        rank, failure = failed.get_first_failure()
        error = V4dError(f"process {rank} of {count} ended with exit code {failure.exitcode}: its last words are above")
        error.exit_code = failure.exitcode if failure.exitcode > 0 else 1
        raise error from None
    except SignalException as signal:
        raise Interrupted(
            f"stopped by {signal.sigval.name}: the same command goes on from the last checkpoint"
        ) from None


def _say_plainly(work: Callable[..., None], *arguments: object) -> None:
    """In a process of its own: an error that is the user's to mend is one line here too."""
    show_warnings()
    try:
        work(*arguments)
    except (V4dError, OSError) as error:
        print(f"v4d: {error}", file=sys.stderr, flush=True)
        sys.exit(error.exit_code if isinstance(error, V4dError) else 1)
    except Exception:
        # A fault of v4d's own. The launcher would keep it to itself.
        traceback.print_exc()
        sys.exit(1)


@contextmanager
def this_place(gpus: int) -> Iterator[Place]:
    """This process's place; joins the process group where there are several, and leaves it at the end."""
    ranks = int(os.environ["WORLD_SIZE"]) if _UNDER_A_LAUNCHER in os.environ else 1
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
    finally:
        dist.destroy_process_group()
