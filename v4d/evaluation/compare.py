"""Two dumps of scores of the same videos, compared video by video.

Shape suffixes: N videos, M measures, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import binomtest

from preprocess.errors import DataError, UsageError
from v4d.evaluation.bootstrap import Resamples, interval
from v4d.evaluation.measures import ranking_of, ranks
from v4d.evaluation.scores_file import SCORES, Scores, read_scores


@dataclass(frozen=True)
class Difference:
    """A measure of both, 0 to 1, and B's less A's with its 95 % interval of paired bootstrap over videos."""

    a: float
    b: float
    difference: float
    low: float
    high: float


@dataclass(frozen=True)
class Changed:
    """A video of which one of them is right by top-1 and the other is not; ``a`` and ``b`` are what they take it for.

    ``labels`` are what it is, all by number of their class.
    """

    key: str
    labels: tuple[int, ...]
    a: int
    b: int
    is_gain: bool


@dataclass(frozen=True)
class ClassChange:
    """Top-1 of the ``videos`` of a class, 0 to 1: a video of several labels is in the first one's."""

    name: str
    videos: int
    a: float
    b: float


@dataclass(frozen=True)
class Comparison:
    """Dumps A and B over the ``videos`` that have a label.

    ``differences`` are by measure: top1, top5, and where videos have one label each mean_class_accuracy; where the
    recipe's loss is sigmoid or the dataset is ActivityNet mean_average_precision, hit1 and hit3. ``p`` is that of
    McNemar's exact test of top-1: how likely the ``changed`` videos would be divided into gains and losses at least as
    unevenly if both were as good.
    """

    videos: int
    only_in_a: int
    only_in_b: int
    class_names: tuple[str, ...]
    differences: dict[str, Difference]
    p: float
    changed: tuple[Changed, ...]
    per_class: tuple[ClassChange, ...]

    @property
    def gains(self) -> int:
        """How many videos B is right about and A is not."""
        return sum(video.is_gain for video in self.changed)

    @property
    def losses(self) -> int:
        """How many videos A is right about and B is not."""
        return len(self.changed) - self.gains

    def as_document(self) -> dict[str, Any]:
        """For JSON, classes by name."""
        changed = [
            {
                "key": video.key,
                "labels": [self.class_names[label] for label in video.labels],
                "a": self.class_names[video.a],
                "b": self.class_names[video.b],
                "change": "gain" if video.is_gain else "loss",
            }
            for video in self.changed
        ]
        return {
            "videos": self.videos,
            "only_in_a": self.only_in_a,
            "only_in_b": self.only_in_b,
            "differences": {name: asdict(of) for name, of in self.differences.items()},
            "mcnemar": {"gains": self.gains, "losses": self.losses, "p": self.p},
            "per_class": [
                {"class": of.name, "videos": of.videos, "a": of.a, "b": of.b, "difference": of.b - of.a}
                for of in self.per_class
            ],
            "changed": changed,
        }


def find_dump(path: Path) -> Path:
    """The dump that is meant: a file, the folder that holds it, or a run that has one evaluation.

    Raises DataError if there is none, UsageError if there are several.
    """
    if path.is_file() or (path / SCORES).is_file():
        return path if path.is_file() else path / SCORES
    found = sorted(path.glob(f"*/{SCORES}"))
    if not found:
        raise DataError(f"there are no scores at {path}: v4d eval writes them")
    if len(found) > 1:
        raise UsageError(f"{path} has several evaluations: name one of {', '.join(str(of.parent) for of in found)}")
    return found[0]


def compare(path_a: Path, path_b: Path, *, common: bool = False, seed: int = 0) -> Comparison:
    """Compare two dumps, as ``find_dump`` finds them, of the same videos, or with ``common`` over those in both.

    Where samples are segments, a video is in both if it has as many of them: else nobody knows which one is left out.

    Raises DataError where one is missing or damaged, where classes, videos or labels differ, and where there is no
    video to compare; UsageError as ``find_dump``.
    """
    path_a, path_b = find_dump(path_a), find_dump(path_b)
    a, b = read_scores(path_a), read_scores(path_b)
    if a.class_names != b.class_names:
        raise DataError(f"{path_a} and {path_b} are of other classes: {_differing(a.class_names, b.class_names)}")
    rows_a, rows_b = _by_key(a), _by_key(b)
    for has, lacks, of, others in (path_a, path_b, rows_a, rows_b), (path_b, path_a, rows_b, rows_a):
        missing = {key: more for key in of if (more := len(of[key]) - len(others.get(key, ()))) > 0}
        if missing and not common:
            raise DataError(
                f"{sum(missing.values())} videos of {has} are not in {lacks}, such as '{next(iter(missing))}': "
                "evaluate the same split, or compare those in both with --common"
            )
    # In an order that is nobody's own: so the other way round the same videos are drawn.
    both = sorted(key for key in rows_a if len(rows_a[key]) == len(rows_b.get(key, ())))
    pairs = [pair for key in both for pair in zip(rows_a[key], rows_b[key], strict=True)]
    for row_a, row_b in pairs:
        here, there = a.labels[row_a], b.labels[row_b]
        if here != there:
            raise DataError(
                f"the labels of '{a.keys[row_a]}' are {_named(here, a)} in {path_a} and {_named(there, b)} in "
                f"{path_b}: they are of other datasets"
            )
    labelled = [(row_a, row_b) for row_a, row_b in pairs if a.labels[row_a]]
    if not labelled:
        raise DataError(f"{path_a} and {path_b} have no video in common that has a label")
    keys, labels = zip(*((a.keys[row_a], a.labels[row_a]) for row_a, _ in labelled), strict=True)
    scores = a.scores_NK[[row_a for row_a, _ in labelled]], b.scores_NK[[row_b for _, row_b in labelled]]
    only = len(a.keys) - len(pairs), len(b.keys) - len(pairs)
    several, ranked = a.is_multi_label or b.is_multi_label, a.is_ranked or b.is_ranked
    return _compared(keys, labels, scores, a.class_names, only, several=several, ranked=ranked, seed=seed)


def _compared(
    keys: Sequence[str],
    labels: Sequence[tuple[int, ...]],
    scores: tuple[np.ndarray, np.ndarray],
    class_names: tuple[str, ...],
    only: tuple[int, int],
    *,
    several: bool,
    ranked: bool,
    seed: int,
) -> Comparison:
    above = {"top1": 1, "top5": min(5, len(class_names)), **({"hit1": 1, "hit3": 3} if ranked else {})}
    hits_a, hits_b = (ranks(of_NK, labels)[:, None] < list(above.values()) for of_NK in scores)
    gain_NM = hits_b.astype(np.float64) - hits_a
    first_N = np.array([of_video[0] for of_video in labels])
    resamples = Resamples(len(keys), seed)
    resampled = resamples.means(gain_NM)
    of_hits = {
        name: _difference(float(hits_a[:, i].mean()), float(hits_b[:, i].mean()), resampled[:, i])
        for i, name in enumerate(above)
    }
    differences = {name: of_hits[name] for name in ("top1", "top5")}
    guesses_a, guesses_b = (of_NK.argmax(axis=1) for of_NK in scores)
    # Of its class, which is the first of the labels where there is one class.
    right_a, right_b = (hits_a[:, 0], hits_b[:, 0]) if several else (guesses_a == first_N, guesses_b == first_N)
    per_class = tuple(
        ClassChange(name, int(of.sum()), float(right_a[of].mean()), float(right_b[of].mean()))
        for number, name in enumerate(class_names)
        if (of := first_N == number).any()
    )
    if not several:
        gain_N1 = (right_b.astype(np.float64) - right_a)[:, None]
        by_class_R = resamples.group_means(gain_N1, first_N)[:, 0]
        mean_a, mean_b = (float(np.mean([getattr(of, which) for of in per_class])) for which in ("a", "b"))
        differences["mean_class_accuracy"] = _difference(mean_a, mean_b, by_class_R)
    if ranked:
        in_a, in_b = (ranking_of(of_NK, labels) for of_NK in scores)
        by_ranking_R = resamples.figures(lambda counts_RN: in_b.means(counts_RN) - in_a.means(counts_RN))
        differences["mean_average_precision"] = _difference(in_a.mean(), in_b.mean(), by_ranking_R)
    differences |= of_hits
    changed = tuple(
        Changed(keys[i], labels[i], int(guesses_a[i]), int(guesses_b[i]), bool(hits_b[i, 0]))
        for i in np.flatnonzero(hits_a[:, 0] != hits_b[:, 0]).tolist()
    )
    gains = sum(video.is_gain for video in changed)
    p = float(binomtest(gains, len(changed), 0.5).pvalue) if changed else 1.0
    return Comparison(len(keys), *only, class_names, differences, p, changed, per_class)


def _difference(a: float, b: float, resampled_R: np.ndarray) -> Difference:
    return Difference(a, b, b - a, *interval(resampled_R))


def _by_key(dump: Scores) -> dict[str, list[int]]:
    """The rows of each key: a video comes once for each of its segments."""
    rows: dict[str, list[int]] = {}
    for row, key in enumerate(dump.keys):
        rows.setdefault(key, []).append(row)
    return rows


def _differing(a: Sequence[str], b: Sequence[str]) -> str:
    if len(a) != len(b):
        return f"{len(a)} and {len(b)}"
    return next(f"class {i} is '{x}' and '{y}'" for i, (x, y) in enumerate(zip(a, b, strict=True)) if x != y)


def _named(labels: Sequence[int], dump: Scores) -> str:
    return " and ".join(f"'{dump.class_names[label]}'" for label in labels) or "none"
