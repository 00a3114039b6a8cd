"""What is printed of an evaluation, and of two that are compared."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from rich.table import Column, Table
from rich.text import Text

from v4d.evaluation.compare import Comparison, Difference
from v4d.evaluation.evaluate import ACCURACY, Accuracy
from v4d.evaluation.measures import Measures

_MOST_CLASSES = 10
# Beyond that p says no more than that it is small.
_LEAST_P = 1e-4


def measure_tables(result: Accuracy, title: str, out: Path, every_class: bool) -> Iterator[Table | str]:
    """The figures with their intervals, then classes and confusions."""
    measures = result.measures
    assert measures is not None
    table = Table("", "", "95 % interval", title=Text(title))
    for name, figure in measures.figures.items():
        is_known = figure.low is not None and figure.high is not None
        between = f"{figure.low:.1%} to {figure.high:.1%}" if is_known else ""
        table.add_row(titled(name, measures.top_k), _share(figure.value), between)
    table.add_row("chance", _share(result.chance), "")
    table.add_row("videos", str(result.videos), "")
    yield table
    worth_K = measures.average_precision_K if measures.accuracy_K is None else measures.accuracy_K
    if worth_K is None or not result.videos:
        return
    present = np.flatnonzero(measures.videos_K)
    worst = present[np.argsort(worth_K[present], kind="stable")]
    shown = worst if every_class else worst[:_MOST_CLASSES]
    yield _class_table(measures, result.class_names, worth_K, shown.tolist())
    if len(shown) < len(present):
        yield f"{len(shown)} of {len(present)} classes: --classes shows all, and so does {out / ACCURACY}"


def _class_table(measures: Measures, names: Sequence[str], worth_K: np.ndarray, shown: Sequence[int]) -> Table:
    """Some classes with their accuracy and what they are taken for, or average precision where there are several."""
    table = Table(Column("class", overflow="fold"), "videos")
    if measures.confusion_KK is None:
        table.add_column("average precision")
        for number in shown:
            table.add_row(Text(names[number]), str(measures.videos_K[number]), f"{worth_K[number]:.1%}")
        return table
    table.add_column("top-1")
    table.add_column("mostly taken for", overflow="fold")
    # The class for which each one is taken the most, if it is not taken for itself.
    wrong_KK = measures.confusion_KK - np.diag(measures.confusion_KK.diagonal())
    for number in shown:
        other = int(wrong_KK[number].argmax())
        count = int(wrong_KK[number, other])
        taken = f"{names[other]} ({count})" if count else ""
        table.add_row(Text(names[number]), str(measures.videos_K[number]), f"{worth_K[number]:.1%}", Text(taken))
    return table


def comparison_tables(result: Comparison, a: str, b: str, changed: bool) -> Iterator[Table | str]:
    """The differences, what may be chance, the classes that differ most, and ``changed`` videos."""
    yield f"A: {a}"
    yield f"B: {b}"
    table = Table("", "A", "B", "B - A", "95 % interval", title=f"{result.videos} videos")
    for name, of in result.differences.items():
        between = f"{100 * of.low:+.1f} to {100 * of.high:+.1f}"
        table.add_row(titled(name, min(5, len(result.class_names))), _share(of.a), _share(of.b), _points(of), between)
    yield table
    if result.only_in_a or result.only_in_b:
        yield f"left out: {result.only_in_a} that only A has, {result.only_in_b} that only B has"
    p = f"p = {result.p:.2g}" if result.p >= _LEAST_P else f"p < {_LEAST_P:g}"
    yield (
        f"only B is right about {result.gains} videos, only A about {result.losses}: "
        f"{p} by McNemar's exact test that both are as good"
    )
    moved = sorted((of for of in result.per_class if of.a != of.b), key=lambda of: (-abs(of.b - of.a), of.name))
    if moved:
        table = Table(Column("class", overflow="fold"), "videos", "A", "B", "B - A")
        for one in moved[:_MOST_CLASSES]:
            row = str(one.videos), _share(one.a), _share(one.b), f"{100 * (one.b - one.a):+.1f}"
            table.add_row(Text(one.name), *row)
        yield table
        if len(moved) > _MOST_CLASSES:
            yield f"{_MOST_CLASSES} of {len(moved)} classes that differ: --json has all"
    if changed and result.changed:
        names = result.class_names
        table = Table(
            Column("video", overflow="fold"), "", Column("is", overflow="fold"), Column("A says", overflow="fold"),
            Column("B says", overflow="fold"),
        )  # fmt: skip
        for video in sorted(result.changed, key=lambda video: video.is_gain):
            change = "wrong → right" if video.is_gain else "right → wrong"
            are = ", ".join(names[label] for label in video.labels)
            table.add_row(Text(video.key), change, Text(are), Text(names[video.a]), Text(names[video.b]))
        yield table


def titled(name: str, top_k: int) -> str:
    """What a measure is called: "top-1" for top1."""
    special = {"top1": "top-1", "top5": f"top-{top_k}", "hit1": "Hit@1", "hit3": f"Hit@{min(3, top_k)}"}
    return special.get(name, name.replace("_", " "))


def _points(of: Difference) -> str:
    return f"{100 * of.difference:+.1f}"


def _share(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.1%}"
