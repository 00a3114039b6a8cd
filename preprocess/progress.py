"""What is seen while a dataset is preprocessed: a bar on a terminal, a line now and then in a log, JSON on demand."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from preprocess.console import shows_progress

_SECONDS_BETWEEN_LINES = 30.0
_SECONDS_BETWEEN_EVENTS = 1.0


class PreprocessProgress:
    """Shows videos done, videos/s, rejects and the time left. Used as a context manager around ``preprocess``."""

    def __init__(self, console: Console, what: str) -> None:
        self._console = console
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}  {task.fields[rejects]} rejected  ETA"),
            TimeRemainingColumn(),
            console=console,
            disable=not shows_progress(console),
        )
        self._task = self._bar.add_task(what, total=None, rate="", rejects=0)
        self._began = self._last_line = time.monotonic()
        self._total = self._before = self._done = self._rejects = 0

    def __enter__(self) -> PreprocessProgress:
        self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._bar.stop()

    def start(self, total: int, done: int) -> None:
        """``done`` of ``total`` videos lie in shards that an earlier run finished."""
        self._total, self._before = total, done
        self._began = time.monotonic()
        self._bar.update(self._task, total=total, completed=done)
        self._console.print(f"{total} videos, {done} of them done by an earlier run" if done else f"{total} videos")

    def video(self, taken: bool) -> None:
        """One more video is done: taken into a shard, or rejected."""
        self._done += 1
        self._rejects += not taken
        now = time.monotonic()
        rate = self._done / max(now - self._began, 1e-9)
        self._bar.update(self._task, advance=1, rate=f"{rate:.1f} videos/s", rejects=self._rejects)
        if not self._console.is_terminal and now - self._last_line > _SECONDS_BETWEEN_LINES:
            self._last_line = now
            left = (self._total - self._before - self._done) / rate
            done = self._before + self._done
            self._console.print(
                f"{done}/{self._total} {rate:.1f} videos/s, {self._rejects} rejected, {left:.0f} s left"
            )


class JsonProgress:
    """The same for machines: lines of JSON, each with an ``event``. The last one of a run is its ``summary``."""

    def __init__(self, write: Callable[[str], None]) -> None:
        self._write = write
        self._began = self._last = time.monotonic()
        self._total = self._before = self._done = self._rejects = 0

    def event(self, name: str, **about: Any) -> None:
        """Write one line, in ASCII: whatever the locale, it can be written and is JSON."""
        self._write(json.dumps({"event": name, **about}))

    def start(self, total: int, done: int) -> None:
        """``done`` of ``total`` videos lie in shards that an earlier run finished."""
        self._total, self._before = total, done
        self._began = time.monotonic()
        self.event("start", videos=total, done=done)

    def video(self, taken: bool) -> None:
        """One more video is done: taken into a shard, or rejected."""
        self._done += 1
        self._rejects += not taken
        now = time.monotonic()
        if now - self._last > _SECONDS_BETWEEN_EVENTS:
            self._last = now
            rate = self._done / max(now - self._began, 1e-9)
            done = self._before + self._done
            self.event("progress", videos=self._total, done=done, rejected=self._rejects, videos_per_second=rate)
