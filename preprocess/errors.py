"""Errors that end a command with one line. With the schema of the shards, what all folders share."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


class V4dError(Exception):
    """Ends a command. The message is one line: which file or option, and what to do about it."""

    exit_code = 1

    def __str__(self) -> str:
        # A path in the message may hold line breaks.
        return "\\n".join(super().__str__().splitlines())


class DataError(V4dError):
    """Data that cannot be used, or a place that cannot take it."""


class UsageError(V4dError):
    """Options, or a recipe, that cannot be used as they are."""

    exit_code = 2


class Interrupted(V4dError):
    """Somebody asked the command to stop. What was finished stays; the same command goes on from there."""

    exit_code = 130

    def __init__(self, message: str = "stopped: the same command goes on from there") -> None:
        super().__init__(message)


@contextmanager
def stop_signals(
    signals: tuple[signal.Signals, ...] = (signal.SIGINT, signal.SIGTERM), second_ends: bool = True
) -> Iterator[threading.Event]:
    """Turn ``signals``, Ctrl-C and SIGTERM, into an event for the length of the block; blocked ones are heard too.

    A second Ctrl-C or SIGTERM does what it always did, if ``second_ends``. Off the main thread, where Python hears no
    signals, the event is never set.
    """
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return

    def hear(*_: object) -> None:
        asked.set()
        if second_ends:
            for number in {signal.SIGINT, signal.SIGTERM} & before.keys():
                signal.signal(number, before[number])

    before = {number: signal.signal(number, hear) for number in signals}
    signal.pthread_sigmask(signal.SIG_UNBLOCK, signals)
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
