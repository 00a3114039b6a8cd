"""Writes shards in processes of this machine."""

from __future__ import annotations

import ctypes
import signal
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from multiprocessing.queues import SimpleQueue
from multiprocessing.synchronize import Semaphore

from preprocess.console import show_log
from preprocess.errors import DataError, Interrupted, stop_signals
from preprocess.parallel import exit_with_parent
from preprocess.shards import ShardPlan, write_shard

# State of a worker process, set once when it starts. Shared memory without a lock says when to stop: a worker that
# is killed cannot take a lock with it.
_progress: SimpleQueue[bool]
_stop: ctypes.c_bool
_turns: Semaphore


def _start_worker(progress: SimpleQueue[bool], stop: ctypes.c_bool, turns: Semaphore) -> None:
    global _progress, _stop, _turns
    _progress, _stop, _turns = progress, stop, turns
    show_log()
    exit_with_parent()


def _work(plan: ShardPlan) -> None:
    write_shard(plan, _progress.put, lambda: _stop.value, _turns)


def write_shards_locally(plans: list[ShardPlan], on_video: Callable[[bool], None], workers: int) -> None:
    """Write shards in ``workers`` processes, with as many ffmpegs of one thread in all.

    Raises what ``write_shard`` raises, Interrupted on Ctrl-C or SIGTERM, and DataError if a process was killed.
    """
    context = get_context("spawn")
    progress: SimpleQueue[bool] = context.SimpleQueue()
    stop = context.RawValue(ctypes.c_bool, False)
    turns = context.BoundedSemaphore(workers)

    def report() -> None:
        while not progress.empty():
            on_video(progress.get())

    # Most videos first: the last shards to finish are then short ones.
    plans = sorted(plans, key=lambda plan: -len(plan.records))
    with (
        stop_signals() as asked,
        ProcessPoolExecutor(min(workers, len(plans)), context, _start_worker, (progress, stop, turns)) as executor,
    ):
        try:
            # Workers are born with Ctrl-C blocked, which is the main process's to hear.
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
            try:
                waiting = {executor.submit(_work, plan) for plan in plans}
            finally:
                signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
            while waiting:
                done, waiting = wait(waiting, timeout=0.2, return_when=FIRST_COMPLETED)
                report()
                if asked.is_set():
                    raise Interrupted
                for future in done:
                    future.result()
        except BrokenProcessPool:
            # SIGTERM may reach the workers first, as from a job scheduler that sends it to every process.
            if asked.wait(1.0):
                raise Interrupted from None
            raise DataError(
                "a worker process was killed (out of memory?): run the same command again, with fewer --workers"
            ) from None
        finally:
            stop.value = True
            executor.shutdown(wait=True, cancel_futures=True)
