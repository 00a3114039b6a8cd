"""What a training run says while it runs: a progress bar, a JSON-lines log and the curves of trackers."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Container, Iterable, Iterator, Sequence
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.text import Text

from preprocess.console import shows_progress
from preprocess.durable_files import replace_atomically
from v4d.trackers import TensorBoard, Tracker

LOG = "log.jsonl"
_SECONDS_BETWEEN_LINES = 30.0
_OF_A_STEP = ("loss", "top1", "lr")
# Measured over all the steps between two reports: one point in a curve.
_OF_A_REPORT = ("videos_per_s", "data_wait", "step_ms", "memory_mb", "mfu", "grad_norm")


class _Bar(Progress):
    """The bar, and below it, as wide as the terminal, what there is to say."""

    said = ""

    def get_renderables(self) -> Iterable[RenderableType]:
        yield from super().get_renderables()
        yield Text(self.said, overflow="fold")


class TrainingLog:
    """Writes RUN/log.jsonl, feeds TensorBoard and other trackers, and shows the bar. On a silent rank: nothing."""

    def __init__(
        self,
        run: Path,
        console: Console,
        *,
        first_step: int,
        steps: int,
        silent: bool,
        trackers: Sequence[Tracker] = (),
    ) -> None:
        """A resumed run goes on at ``first_step``: what the log holds of later steps is dropped."""
        self.run, self._stopped = run, False
        self._silent, self._console, self._steps = silent, console, steps
        self._first_step = first_step
        self._began = self._last_line = time.monotonic()
        if silent:
            return
        _keep_steps_before(run / LOG, first_step)
        self._file = open(run / LOG, "a")  # noqa: SIM115 - open as long as the run
        self._trackers: list[Tracker] = [TensorBoard(run, first_step), *trackers]
        self._bar = _Bar(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[left]}"),
            console=console,
            refresh_per_second=2,
            disable=not shows_progress(console),
        )
        self._task = self._bar.add_task("steps", total=steps, completed=first_step, left="")

    def __enter__(self) -> TrainingLog:
        if not self._silent:
            self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if not self._silent:
            self._bar.stop()
            # A full disk was told of before.
            with suppress(OSError):
                self._file.close()
            for tracker in self._trackers:
                with suppress(OSError):
                    tracker.close(failed=kind is not None or self._stopped)

    def first_batch(self, sheet_HWC: np.ndarray) -> None:
        """Show what the network sees of the first batch of this process: see ``sample_sheet``."""
        if not self._silent:
            for tracker in self._trackers:
                tracker.picture("first_batch", sheet_HWC, self._first_step)

    def steps(self, records: Sequence[dict[str, Any]]) -> None:
        """Note the steps since the last report.

        Each has ``step``, ``epoch``, ``loss``, ``top1``, ``lr`` and ``left_out``, how many videos could not be loaded
        since the epoch began; and the same in all, what ``Meter.read`` says of them. The last may have ``grad_norm``.
        """
        if self._silent or not records:
            return
        now, last = time.time(), records[-1]
        self._write(*({**record, "time": round(now, 3)} for record in records))
        figures = [(record["step"], _curves(record, _OF_A_STEP)) for record in records]
        figures[-1][1].update(_curves(last, _OF_A_REPORT))
        for tracker in self._trackers:
            tracker.figures(figures)
        self._show(last)

    def _show(self, record: dict[str, Any]) -> None:
        done, seconds = record["step"] + 1, time.monotonic() - self._began
        left = seconds / (done - self._first_step) * (self._steps - done)
        about = (
            f"epoch {record['epoch']}  loss {record['loss']:.3f}  top-1 {record['top1']:.0%}  "
            f"{record['videos_per_s']:.1f} videos/s  data wait {record['data_wait']:.0%}  "
            f"memory {record['memory_mb'] / 1e3:.1f} GB"
        )
        if "mfu" in record:
            about += f"  MFU {record['mfu']:.0%}"
        eta = f"ETA {timedelta(seconds=round(left))}"
        self._bar.said = about
        self._bar.update(self._task, completed=done, left=eta)
        if not self._console.is_terminal and time.monotonic() - self._last_line > _SECONDS_BETWEEN_LINES:
            self._last_line = time.monotonic()
            self._console.print(f"step {done}/{self._steps}  {about}  {eta}", highlight=False)

    def validation(self, record: dict[str, Any]) -> None:
        """Note a validation: ``step``, ``epoch``, ``val_top1`` and ``val_left_out``, the videos not loaded."""
        if self._silent:
            return
        self._write(record)
        for tracker in self._trackers:
            tracker.figures([(record["step"], {"val/top1": record["val_top1"]})])
        left_out = f", {record['val_left_out']} videos left out" if record["val_left_out"] else ""
        said = f"epoch {record['epoch']}: validation top-1 {record['val_top1']:.1%}{left_out}"
        self._console.print(said, highlight=False)

    def stopped(self) -> None:
        """Note that the run ends now and is to go on later."""
        self._stopped = True

    def error(self, record: dict[str, Any]) -> None:
        """Note why the run ends: ``step``, ``epoch``, ``error`` and what helps to mend it."""
        if not self._silent:
            self._write(record)

    def sync(self) -> None:
        """Force to disk what was noted so far."""
        if self._silent:
            return
        os.fsync(self._file.fileno())
        for tracker in self._trackers:
            tracker.flush()

    def _write(self, *records: dict[str, Any]) -> None:
        self._file.write("".join(json.dumps(record) + "\n" for record in records))
        self._file.flush()


def _curves(record: dict[str, Any], names: Sequence[str]) -> dict[str, float]:
    return {f"train/{name}": record[name] for name in names if record.get(name) is not None}


def left_out_before(run: Path, step: int, epoch: int) -> int:
    """How many videos of ``epoch`` (from 1) could not be loaded in the steps before ``step``, as the log has it."""
    counts = [record.get("left_out", 0) for record in _records_before(run / LOG, step) if record["epoch"] == epoch]
    return max(counts, default=0)


def validations(run: Path) -> list[dict[str, Any]]:
    """The validations that the log of ``run`` has, in their order."""
    return [record for record in records(run, of='"val_top1"') if "val_top1" in record]


def best_step(run: Path, among: Container[int] | None = None) -> int | None:
    """After how many steps the first best validation of ``run`` was, or of those after ``among``; None if none was."""
    found = [record for record in validations(run) if among is None or record["step"] + 1 in among]
    best = max(found, key=lambda record: float(record["val_top1"]), default=None)
    return int(best["step"]) + 1 if best else None


def last_step(run: Path) -> int:
    """How many steps the log of ``run`` tells of."""
    log = run / LOG
    if not log.exists():
        return 0
    with open(log, "rb") as file:
        file.seek(max(0, log.stat().st_size - 65536))
        # The last lines; the first and the last of them may be halves.
        found = re.findall(rb'^{"step": (\d+),', file.read(), re.MULTILINE)
    return int(found[-1]) + 1 if found else 0


def records(run: Path, of: str = "") -> Iterator[dict[str, Any]]:
    """The records of a run's log in whose line is ``of``."""
    log = run / LOG
    for line in log.read_text().splitlines() if log.exists() else ():
        if of not in line:
            continue
        try:
            yield json.loads(line)
        except ValueError:
            # A run that is killed leaves half a line.
            continue


def _keep_steps_before(log: Path, step: int) -> None:
    """Drop what a killed run logged after its last checkpoint, a half-written line included."""
    if log.exists():
        kept = "".join(json.dumps(record) + "\n" for record in _records_before(log, step))
        with replace_atomically(log) as temporary:
            temporary.write_text(kept)


def _records_before(log: Path, step: int) -> Iterator[dict[str, Any]]:
    return (record for record in records(log.parent) if record["step"] < step)
