"""What a training run says while it runs: a progress bar, a JSON-lines log and TensorBoard curves."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch.utils.tensorboard import SummaryWriter

from preprocess.durable_files import replace_atomically

LOG = "log.jsonl"
_SECONDS_BETWEEN_LINES = 30.0


class TrainingLog:
    """Writes RUN/log.jsonl and RUN/tensorboard and shows the bar. On a silent rank it does nothing."""

    def __init__(self, run: Path, console: Console, *, first_step: int, steps: int, silent: bool) -> None:
        """A resumed run goes on at ``first_step``: what the log holds of later steps is dropped."""
        self.run = run
        self._silent, self._console, self._steps = silent, console, steps
        self._last_line = time.monotonic()
        if silent:
            return
        _keep_steps_before(run / LOG, first_step)
        self._file = open(run / LOG, "a")  # noqa: SIM115 - open as long as the run
        self._curves = SummaryWriter(str(run / "tensorboard"), purge_step=first_step)
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[about]}"),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task("steps", total=steps, completed=first_step, about="")

    def __enter__(self) -> TrainingLog:
        if not self._silent:
            self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if not self._silent:
            self._bar.stop()
            # A full disk was told of before.
            for file in (self._file, self._curves):
                with suppress(OSError):
                    file.close()

    def step(self, record: dict[str, Any]) -> None:
        """Note one step.

        It has ``step``, ``epoch``, ``loss``, ``top1``, ``lr``, ``videos_per_s``, ``data_wait`` and ``left_out``, how
        many videos could not be loaded since the epoch began.
        """
        if self._silent:
            return
        self._write(record)
        for name in ("loss", "top1", "lr", "videos_per_s", "data_wait"):
            self._curves.add_scalar(f"train/{name}", record[name], record["step"])
        about = (
            f"epoch {record['epoch']}  loss {record['loss']:.3f}  top-1 {record['top1']:.0%}  "
            f"{record['videos_per_s']:.1f} videos/s  data wait {record['data_wait']:.0%}"
        )
        self._bar.update(self._task, completed=record["step"] + 1, about=about)
        if not self._console.is_terminal and time.monotonic() - self._last_line > _SECONDS_BETWEEN_LINES:
            self._last_line = time.monotonic()
            self._console.print(f"step {record['step'] + 1}/{self._steps}  {about}", highlight=False)

    def validation(self, record: dict[str, Any]) -> None:
        """Note a validation: ``step``, ``epoch``, ``val_top1`` and ``val_left_out``, the videos not loaded."""
        if self._silent:
            return
        self._write(record)
        self._curves.add_scalar("val/top1", record["val_top1"], record["step"])
        left_out = f", {record['val_left_out']} videos left out" if record["val_left_out"] else ""
        said = f"epoch {record['epoch']}: validation top-1 {record['val_top1']:.1%}{left_out}"
        self._console.print(said, highlight=False)

    def error(self, record: dict[str, Any]) -> None:
        """Note why the run ends: ``step``, ``epoch``, ``error`` and what helps to mend it."""
        if not self._silent:
            self._write(record)

    def sync(self) -> None:
        """Force to disk what was noted so far."""
        if self._silent:
            return
        os.fsync(self._file.fileno())
        self._curves.flush()

    def _write(self, record: dict[str, Any]) -> None:
        self._file.write(json.dumps(record) + "\n")
        self._file.flush()


def left_out_before(run: Path, step: int, epoch: int) -> int:
    """How many videos of ``epoch`` (from 1) could not be loaded in the steps before ``step``, as the log has it."""
    counts = [record.get("left_out", 0) for record in _records_before(run / LOG, step) if record["epoch"] == epoch]
    return max(counts, default=0)


def validations(run: Path) -> list[dict[str, Any]]:
    """The validations that the log of ``run`` has, in their order."""
    return [record for record in records(run, of='"val_top1"') if "val_top1" in record]


def best_step(run: Path) -> int | None:
    """After how many steps the first best validation of ``run`` was; None if there was none."""
    best = max(validations(run), key=lambda record: float(record["val_top1"]), default=None)
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
