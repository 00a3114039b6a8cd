"""What a command says: results, notes beside them, and its log. With --quiet, --verbose or --debug less, or more.

Results go to standard output, by ``console``. So do ``notes``: what was chosen, how far it is, how long it took; with
--quiet there are none. The log goes to standard error, a line for each record: warnings, with --verbose what was chosen
and why, with --debug every ffmpeg that is run too. The choice lies in the environment, where the processes that a
command starts find it. Neither console has colours where it is no terminal, or where NO_COLOR is set.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal, get_args

from rich.console import Console

Verbosity = Literal["quiet", "normal", "verbose", "debug"]
VERBOSITY = "V4D_VERBOSITY"
_LEVELS = {"quiet": logging.WARNING, "normal": logging.WARNING, "verbose": logging.INFO, "debug": logging.DEBUG}
_LOGS = ("benchmarks", "pipelines", "preprocess", "v4d")


def verbosity() -> Verbosity:
    """What the environment says; "normal" where it says nothing that is known."""
    for known in get_args(Verbosity):
        if os.environ.get(VERBOSITY) == known:
            return known  # type: ignore[no-any-return]
    return "normal"


def _console() -> Console:
    return Console(highlight=False, markup=False, soft_wrap=True)


console, notes = _console(), _console()
notes.quiet = verbosity() == "quiet"


def shows_progress(on: Console = notes) -> bool:
    """Whether there is a terminal to draw a bar on, and somebody who wants to see it."""
    return on.is_terminal and not on.quiet


def notes_of(is_main: bool) -> Console:
    """Where one of several processes says what it does: only the main one is heard."""
    return notes if is_main else Console(quiet=True)


def notes_beside(document: bool) -> Console:
    """Where notes go if a ``document`` is read from standard output: to the other one."""
    return Console(highlight=False, markup=False, soft_wrap=True, stderr=True, quiet=notes.quiet) if document else notes


class _ToStandardError(logging.Handler):
    """A line for each record, wherever standard error goes by then: a progress bar puts its own in its place."""

    def emit(self, record: logging.LogRecord) -> None:
        print(f"v4d: {record.getMessage()}", file=sys.stderr, flush=True)


def show_log() -> None:
    """Let the log come to the user, as far as ``verbosity()`` says. To be called once or more in each process."""
    for log in map(logging.getLogger, _LOGS):
        log.setLevel(_LEVELS[verbosity()])
        if not any(isinstance(handler, _ToStandardError) for handler in log.handlers):
            log.addHandler(_ToStandardError())


@contextmanager
def saying(how_much: Verbosity) -> Iterator[None]:
    """Say so much, here and in processes started meanwhile, until the block ends."""
    before, levels = os.environ.get(VERBOSITY), {name: logging.getLogger(name).level for name in _LOGS}
    os.environ[VERBOSITY] = how_much
    notes.quiet = how_much == "quiet"
    show_log()
    try:
        yield
    finally:
        os.environ.pop(VERBOSITY)
        if before is not None:
            os.environ[VERBOSITY] = before
        notes.quiet = verbosity() == "quiet"
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
