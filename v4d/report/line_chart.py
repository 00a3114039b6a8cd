"""Line charts as geometry that the page draws as SVG.

No library draws them: what those make has its colours and font sizes in it, so that it would not follow the page's
light and dark scheme, or brings megabytes of scripts without which there is nothing to see.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

Kind = Literal["number", "percent"]
# In units of the SVG's own; text is 12 of them high.
WIDTH, HEIGHT = 360, 200
_LEFT, _TOP, _RIGHT, _BOTTOM = 52, 14, 350, 176
_MOST_TICKS = 5


@dataclass(frozen=True)
class Series:
    """A line through points (step, value) of finite numbers; with ``dots`` each is marked."""

    name: str
    points: tuple[tuple[float, float], ...]
    dots: bool = False


@dataclass(frozen=True)
class Tick:
    """Where a tick is on its axis, and what stands there."""

    at: float
    text: str


@dataclass(frozen=True)
class Line:
    """A series as it is drawn: ``path`` is that of an SVG, ``dots`` are places."""

    name: str
    path: str
    dots: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Chart:
    """A chart as it is drawn; ``said`` tells in words what it shows, ``data`` what the page's script reads out."""

    id: str
    title: str
    said: str
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    lines: tuple[Line, ...]
    data: dict[str, Any]
    left: int = _LEFT
    top: int = _TOP
    right: int = _RIGHT
    bottom: int = _BOTTOM
    width: int = WIDTH
    height: int = HEIGHT


def line_chart(id_: str, title: str, series: Sequence[Series], kind: Kind, low: float | None = None) -> Chart:
    """A chart of some series over steps, the values of which are shares if ``kind`` is "percent".

    The vertical axis begins at ``low``, by default below the lowest value. At least one series has a point.
    """
    steps = [step for one in series for step, _ in one.points]
    values = [value for one in series for _, value in one.points]
    y_ticks = list(ticks(min(values) if low is None else min(low, *values), max(values)))
    x_low, x_high = min(steps), max(steps)
    y_low, y_high = y_ticks[0], y_ticks[-1]

    def x(step: float) -> float:
        return round(_LEFT + (_RIGHT - _LEFT) * (step - x_low) / ((x_high - x_low) or 1), 1)

    def y(value: float) -> float:
        return round(_BOTTOM - (_BOTTOM - _TOP) * (value - y_low) / (y_high - y_low), 1)

    lines, read_out = [], []
    for one in series:
        places = [(x(step), y(value)) for step, value in one.points]
        path = "M" + "L".join(f"{at_x:g},{at_y:g}" for at_x, at_y in places)
        lines.append(Line(one.name, path, tuple(places) if one.dots else ()))
        points = [
            [*place, f"step {step:,.0f}", as_text(value, kind)]
            for place, (step, value) in zip(places, one.points, strict=True)
        ]
        read_out.append({"name": one.name, "points": points})
    return Chart(
        id=id_,
        title=title,
        said=" ".join(_said(one, kind) for one in series),
        x_ticks=tuple(Tick(x(at), f"{at:,.0f}") for at in ticks(x_low, x_high, whole=True) if x_low <= at <= x_high),
        y_ticks=tuple(Tick(y(at), as_text(at, kind)) for at in y_ticks),
        lines=tuple(lines),
        data={"id": id_, "series": read_out},
    )


def as_text(value: float, kind: Kind) -> str:
    """A value as the page shows it."""
    if kind == "percent":
        return f"{value:.1%}".replace(".0%", "%")
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def ticks(low: float, high: float, whole: bool = False) -> Iterator[float]:
    """Round numbers, evenly apart: the first is not above ``low``, the last not below ``high``; at least two."""
    if high <= low:
        high = low + (abs(low) or 1)
    step = 10 ** math.floor(math.log10((high - low) / _MOST_TICKS))
    factor = next(factor for factor in (1, 2, 2.5, 5, 10, 20) if (high - low) / (step * factor) <= _MOST_TICKS - 1)
    step *= factor
    if whole:
        step = max(1, round(step))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    # A sum of steps would end in digits that are not the number's.
    digits = max(0, 2 - math.floor(math.log10(step)))
    return (round(number * step, digits) for number in range(first, last + 1))


def _said(series: Series, kind: Kind) -> str:
    values = [value for _, value in series.points]
    (first, _), (last, _) = series.points[0], series.points[-1]
    least, most = min(values), max(values)
    return (
        f"{series.name}: {as_text(values[0], kind)} at step {first:,.0f}, {as_text(values[-1], kind)} at step "
        f"{last:,.0f}, lowest {as_text(least, kind)}, highest {as_text(most, kind)}."
    )
