"""A table's rows as they came out beside the paper's figures, and what differs from the paper.

Shape suffixes: N videos, K classes, R resamples.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.table import Table

from preprocess.errors import DataError
from v4d.config import Recipe
from v4d.evaluation.bootstrap import Resamples, interval
from v4d.evaluation.mean_average_precision import Ranking
from v4d.evaluation.measures import ranks
from v4d.evaluation.scores_file import Scores, read_scores
from v4d.recipes.files import read_recipe
from v4d.reproduce.plan import Job, Plan
from v4d.reproduce.tables import Measure, PaperRow, PaperTable

_PLACES: dict[Measure, int] = {"top1": 1, "top5": 5}
_TITLES: dict[Measure, str] = {"top1": "top-1", "top5": "top-5", "mean_average_precision": "mAP"}
# Of a recipe's settings, those by which a result does not change, and the seed.
_NO_MATTER = ("seed", "compile", "autotune", "channels_last", "checkpoint_every", "validate_every", "keep_every")
UNKNOWN = "\N{EN DASH}"
# Recipes have values of their own where the paper has none.
DIFFERS = "What differs from the paper, or where it is silent from the recipes"


@dataclass(frozen=True)
class Measured:
    """A figure in per cent: ``mean`` over seeds, their standard deviation if they are several, and each one.

    ``low`` and ``high`` are the mean's 95 % bootstrap interval over videos, all seeds seeing the same ones.
    """

    mean: float
    low: float
    high: float
    spread: float | None
    of_seeds: tuple[float, ...]

    def __str__(self) -> str:
        spread = "" if self.spread is None else f" ± {self.spread:.1f}"
        return f"{self.mean:.1f}{spread} ({self.low:.1f} to {self.high:.1f})"


@dataclass(frozen=True)
class RowResult:
    """A row as it came out: over ``videos``, with so many ``seeds``."""

    row: PaperRow
    videos: int
    seeds: int
    figures: dict[Measure, Measured]


@dataclass(frozen=True)
class TableResult:
    """A table as it came out, and ``differences``, a line each, from how the paper did it."""

    table: PaperTable
    scale: str
    rows: tuple[RowResult, ...]
    differences: tuple[str, ...]
    then: str = ""

    def as_document(self) -> dict[str, Any]:
        """For JSON; figures are in per cent."""
        rows = [
            {
                "row": one.row.name,
                "network": one.row.network,
                "protocol": str(one.row.test()),
                "videos": one.videos,
                "seeds": one.seeds,
                "figures": {name: asdict(figure) for name, figure in one.figures.items()},
                "paper": {name: one.row.paper.get(name) for name in self.table.measures},
            }
            for one in self.rows
        ]
        title = self.table.title
        said = {"table": self.table.name, "title": title, "scale": self.scale, "rows": rows}
        return {**said, "differences": list(self.differences), "then": self.then}

    def _header(self) -> list[str]:
        return ["network", *(cell for name in self.table.measures for cell in (_TITLES[name], "paper"))]

    def _cells(self) -> Iterator[list[str]]:
        for one in self.rows:
            cells = [one.row.network]
            for name in self.table.measures:
                paper = one.row.paper.get(name)
                cells += [str(one.figures[name]), UNKNOWN if paper is None else f"{paper:.1f}"]
            yield cells

    def _legend(self) -> str:
        seeds = max((one.seeds for one in self.rows), default=0)
        over = "one seed" if seeds == 1 else f"mean ± standard deviation of {seeds} seeds"
        return f"In per cent: {over}, and the 95 % bootstrap interval over videos."

    def as_table(self) -> Table:
        """For a terminal."""
        title = f"{self.table.title} ({self.scale} scale)"
        table = Table(title=title, caption=self._legend(), box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
        for number, column in enumerate(self._header()):
            table.add_column(column, no_wrap=number > 0)
        for cells in self._cells():
            table.add_row(*cells)
        return table

    def as_markdown(self) -> str:
        """A page: the table, then what differs."""
        header = self._header()
        lines = [f"# {self.table.title}", "", f"At {self.scale} scale. {self._legend()}", ""]
        lines += [_line(header), _line(["---"] * len(header)), *(_line(cells) for cells in self._cells()), ""]
        lines += [f"{DIFFERS}:", "", *(f"- {one}" for one in self.differences)]
        lines += ["", f"Then: `{self.then}`"] * bool(self.then)
        return "\n".join(lines) + "\n"


def table_result(plan: Plan, jobs: Sequence[Job]) -> TableResult:
    """What the evaluations of ``jobs`` are worth. Raises DataError where one is missing or of other videos."""
    rows = []
    for row in plan.rows:
        of_row = [job for job in jobs if job.row == row]
        dumps = [read_scores(job.scores) for job in of_row]
        figures = {name: _measured(name, dumps, of_row) for name in plan.table.measures}
        rows.append(RowResult(row, len(dumps[0].keys), len(dumps), figures))
    runs = {job.row.name: str(job.own.run) for job in jobs if job.seed == 0}
    is_whole = len(plan.rows) == len(plan.table.rows)
    then = plan.table.then.format(**runs) if is_whole else ""
    return TableResult(plan.table, plan.scale.name, tuple(rows), tuple(differences(plan, jobs)), then)


def _measured(name: Measure, dumps: Sequence[Scores], jobs: Sequence[Job]) -> Measured:
    of_seeds, resampled = [], []
    for dump, job in zip(dumps, jobs, strict=True):
        if dump.keys != dumps[0].keys:
            raise DataError(f"{job.scores} is of other videos than {jobs[0].scores}: were some left out?")
        labelled = [number for number, labels in enumerate(dump.labels) if labels]
        if not labelled:
            raise DataError(f"{job.own.dataset.root} has no labels in its split val")
        share, share_R = _share(name, dump.scores_NK[labelled], [dump.labels[number] for number in labelled])
        of_seeds.append(100 * share)
        resampled.append(100 * share_R)
    low, high = interval(np.mean(resampled, axis=0))
    spread = statistics.stdev(of_seeds) if len(of_seeds) > 1 else None
    return Measured(statistics.fmean(of_seeds), low, high, spread, tuple(of_seeds))


def _share(name: Measure, scores_NK: np.ndarray, labels: list[tuple[int, ...]]) -> tuple[float, np.ndarray]:
    """A figure, 0 to 1, and that of each resample of the videos, (R,), which are the same ones for each seed."""
    resamples = Resamples(len(labels))
    if name == "mean_average_precision":
        labels_NK = np.zeros(scores_NK.shape, bool)
        for video, of_video in enumerate(labels):
            labels_NK[video, list(of_video)] = True
        ranking = Ranking(scores_NK, labels_NK)
        return ranking.mean(), resamples.figures(ranking.means)
    hits_N = ranks(scores_NK, labels) < min(_PLACES[name], scores_NK.shape[1])
    return float(hits_N.mean()), resamples.means(hits_N[:, None])[:, 0]


def differences(plan: Plan, jobs: Sequence[Job]) -> Iterator[str]:
    """What is not as in the paper: data, settings, and notes on single rows; a line each."""
    yield from _data_differences(plan)
    changes: dict[str, dict[str, None]] = {}
    for job in jobs:
        for training in job.trainings:
            for key, now, then in _changed(training.recipe, training.as_in_paper):
                changes.setdefault(key, {}).setdefault(f"{now} in place of {then}")
    for key, said in changes.items():
        yield f"{key}: {', '.join(said)}"
    yield from _assumed(jobs)
    starts = {job.own.recipe.train.init for job in jobs if job.own.recipe.train.starts_from} if plan.starts else set()
    for start in sorted(starts):
        yield f"starts from {start}"
    if any(row.paper for row in plan.rows):
        yield "the paper does not say how many seeds its figures are of, and gives no interval"
    if plan.table.note:
        yield plan.table.note


def _data_differences(plan: Plan) -> Iterator[str]:
    paper, ours = plan.table.dataset, plan.dataset()
    counts = {split: ours.splits.get(split, {}).get("videos", 0) for split in ("train", "val")}
    said = f"{counts['train']:,} videos in train and {counts['val']:,} in val, of {len(ours.classes):,} classes"
    its_own = (
        f"{paper.train:,} and {paper.val:,}, of {paper.classes:,}" if paper.train else "how many is not known here"
    )
    if ours.kind != paper.kind:
        yield f"data: {ours.root} ({ours.kind}), {said}, in place of {paper.name} ({its_own})"
    elif not paper.train:
        yield f"data: {said}; how many the paper had is not known here"
    elif (counts["train"], counts["val"], len(ours.classes)) != (paper.train, paper.val, paper.classes):
        yield f"data: {said}; the paper's {paper.name} had {its_own}"
    if ours.size and ours.size[0] == ours.size[1]:
        yield "test: frames are square, so that the three crops are one"


def _assumed(jobs: Sequence[Job]) -> Iterator[str]:
    """What the packaged recipes have where the paper is silent, with the reason that they give."""
    said: dict[str, None] = {}
    for name in dict.fromkeys(training.recipe.name for job in jobs for training in job.trainings):
        written = read_recipe(name)
        for (section, key), note in written.notes.items():
            text = " ".join(note)
            if "paper" in text.lower() and section in written.content:
                said.setdefault(f"{section}.{key} of the recipes: {text}")
    yield from said


def _changed(now: Recipe, then: Recipe) -> Iterator[tuple[str, Any, Any]]:
    """Keys of a recipe that have another value, but for the seed and where it starts from another training's run."""
    before = then.model_dump()
    for section, values in now.model_dump().items():
        if not isinstance(values, dict):
            continue
        for key, value in values.items():
            is_start = (section, key) == ("train", "init") and now.train.starts_from
            if value != before[section][key] and not is_start and key not in _NO_MATTER:
                yield f"{section}.{key}", _said(value), _said(before[section][key])


def _said(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return f"[{', '.join(map(_said, value))}]"
    return f"{value:g}" if isinstance(value, float) else str(value) or "none"


def _line(cells: Sequence[str]) -> str:
    escaped = (cell.replace("|", "\\|") for cell in cells)
    return f"| {' | '.join(escaped)} |"
