"""The curves and the throughput of a run, as its log tells of them.

Shape suffixes: S steps.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

import numpy as np

from v4d.report.line_chart import Chart, Kind, Series, line_chart
from v4d.training_log import records, validations

# As many as a chart has room for: a run of many steps is shown in means over this many equal parts.
_MOST_POINTS = 180
_OF_STEPS = ("loss", "top1", "lr", "videos_per_s", "data_wait", "step_ms", "mfu", "grad_norm", "memory_mb")
_THROUGHPUT: tuple[tuple[str, str, Kind], ...] = (
    ("videos_per_s", "Videos a second", "number"),
    ("data_wait", "Data wait", "percent"),
    ("step_ms", "Computing a step, ms", "number"),
    ("mfu", "MFU, the share of the devices' peak", "percent"),
    ("memory_mb", "Memory, MB", "number"),
)


@dataclass(frozen=True, eq=False)
class StepFigures:
    """The figures of a run's log by name, each (S,) float64 with NaN where a step has none, and the steps' times."""

    steps_S: np.ndarray
    by_name: dict[str, np.ndarray]
    first: datetime | None
    last: datetime | None

    def has(self, name: str) -> bool:
        """Whether any step has the figure."""
        return bool(np.isfinite(self.by_name[name]).any())


@dataclass(frozen=True)
class ThroughputRow:
    """A figure's median over the steps, and what 5 and 95 % of them are below."""

    title: str
    median: str
    low: str
    high: str


def read_step_figures(run: Path) -> StepFigures:
    """Read the steps of a run's log; none where there is no log."""
    steps: list[int] = []
    found: dict[str, list[float]] = {name: [] for name in _OF_STEPS}
    first = last = None
    for record in records(run, of='"loss"'):
        if "loss" not in record:
            continue
        steps.append(record["step"])
        for name, values in found.items():
            value = record.get(name)
            values.append(np.nan if value is None else value)
        last = record.get("time", last)
        first = last if first is None else first
    by_name = {name: np.array(values, dtype=np.float64) for name, values in found.items()}
    return StepFigures(np.array(steps, dtype=np.int64), by_name, _as_time(first), _as_time(last))


def _as_time(seconds: float | None) -> datetime | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, timezone.utc)


def training_charts(run: Path, figures: StepFigures) -> list[Chart]:
    """Loss, top-1 in training and validation, and learning rate, by step: those of which the log has a number."""
    checked = [(record["step"], float(record["val_top1"])) for record in validations(run)]
    validation = Series("Validation", tuple(checked), dots=True)
    charts: list[tuple[str, str, list[Series], Kind, float | None]] = [
        ("loss", "Loss", [_series(figures, "loss", "Training")], "number", None),
        ("top1", "Top-1", [_series(figures, "top1", "Training"), validation], "percent", 0.0),
        ("lr", "Learning rate", [_series(figures, "lr", "Learning rate")], "number", 0.0),
    ]
    drawn = []
    for id_, title, series, kind, low in charts:
        # A line without a point would have nothing to tell its name from.
        if having_points := [one for one in series if one.points]:
            drawn.append(line_chart(id_, title, having_points, kind, low))
    return drawn


def throughput_charts(figures: StepFigures) -> list[Chart]:
    """Videos a second, the wait for data and, where it was logged, MFU, by step."""
    shown = (row for row in _THROUGHPUT if row[0] in ("videos_per_s", "data_wait", "mfu") and figures.has(row[0]))
    return [
        line_chart(name, title.split(",")[0], [_series(figures, name, title.split(",")[0])], kind, low=0.0)
        for name, title, kind in shown
    ]


def throughput_table(figures: StepFigures) -> list[ThroughputRow]:
    """The figures of speed and memory that were logged."""
    rows = []
    for name, title, kind in _THROUGHPUT:
        if figures.has(name):
            low, median, high = np.nanpercentile(figures.by_name[name], (5, 50, 95))
            form = "{:.1%}" if kind == "percent" else "{:,.1f}"
            rows.append(ThroughputRow(title, *(form.format(value) for value in (median, low, high))))
    return rows


def _series(figures: StepFigures, name: str, title: str) -> Series:
    return Series(title, tuple(_thinned(figures.steps_S, figures.by_name[name])))


def _thinned(steps_S: np.ndarray, values_S: np.ndarray) -> Iterator[tuple[float, float]]:
    """Points of a curve: each step, or the means over equal numbers of them where they are many."""
    finite_S = np.isfinite(values_S)
    steps_S, values_S = steps_S[finite_S], values_S[finite_S]
    parts = min(len(steps_S), _MOST_POINTS)
    for steps, values in zip(np.array_split(steps_S, parts or 1), np.array_split(values_S, parts or 1), strict=True):
        if len(steps):
            yield float(steps[len(steps) // 2]), float(values.mean())
