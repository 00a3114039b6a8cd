"""Work on shards in processes of this machine, with the results in order."""

from __future__ import annotations

import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures import TimeoutError as NotYet
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context, parent_process
from typing import TypeVar

from preprocess.errors import DataError, Interrupted, stop_signals

Task = TypeVar("Task")
Result = TypeVar("Result")
_TASKS_AHEAD = 2
_STOPPED = "stopped: nothing was changed"


def exit_with_parent() -> None:
    """Have this process end with its parent: one killed with SIGKILL tells nobody, and its workers would wait on."""
    threading.Thread(target=_exit_after_parent, daemon=True).start()


def _exit_after_parent() -> None:
    parent = parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def in_order(work: Callable[[Task], Result], tasks: Sequence[Task], workers: int) -> Iterator[Result]:
    """``work`` of each task, in their order, by up to ``workers`` processes; by this one if that is 1, or one task.

    Few results are held at a time. Raises what ``work`` raises, Interrupted on Ctrl-C or SIGTERM, and DataError if a
    process was killed.
    """
    workers = min(workers, len(tasks))
    with stop_signals() as asked:
        if workers <= 1:
            for task in tasks:
                result = work(task)
                if asked.is_set():
                    raise Interrupted(_STOPPED)
                yield result
            return
        executor = ProcessPoolExecutor(workers, get_context("spawn"), exit_with_parent)
        try:
            waiting: deque[Future[Result]] = deque()
            for task in tasks:
                waiting.append(_submitted(executor, work, task))
                if len(waiting) == _TASKS_AHEAD * workers:
                    yield _result(waiting.popleft(), asked)
            while waiting:
                yield _result(waiting.popleft(), asked)
        except BrokenProcessPool:
            # SIGTERM may reach the workers first, as from a job scheduler that sends it to every process.
            if asked.wait(1.0):
                raise Interrupted(_STOPPED) from None
            raise DataError(
                "a worker process was killed (out of memory?): run the same command again, with fewer --workers"
            ) from None
        finally:
            executor.shutdown(wait=True, cancel_futures=True)


def _submitted(executor: ProcessPoolExecutor, work: Callable[[Task], Result], task: Task) -> Future[Result]:
    # Workers are born with Ctrl-C blocked, which is the main process's to hear.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        return executor.submit(work, task)
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


def _result(future: Future[Result], asked: threading.Event) -> Result:
    while not asked.is_set():
        try:
            return future.result(timeout=0.2)
        except NotYet:
            if future.done():
                raise
    raise Interrupted(_STOPPED)
