"""Two dumps of scores of the same videos, compared video by video.

Shape suffixes: N videos, M measures, K classes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import binomtest

from preprocess.errors import DataError, UsageError
from v4d.evaluation.bootstrap import Resamples, interval
from v4d.evaluation.measures import ranks
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

    ``differences`` are by measure: top1, top5, and where videos have one label each mean_class_accuracy. ``p`` is that
    of McNemar's exact test of top-1: how likely the ``changed`` videos would be divided into gains and losses at least
    as unevenly if both were as good.
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

    Raises DataError where one is missing or damaged, where classes, videos or labels differ, and where there is no
    video to compare; UsageError as ``find_dump``.
    """
    path_a, path_b = find_dump(path_a), find_dump(path_b)
    a, b = read_scores(path_a), read_scores(path_b)
    if a.class_names != b.class_names:
        raise DataError(f"{path_a} and {path_b} are of other classes: {_differing(a.class_names, b.class_names)}")
    rows_a, rows_b = _by_key(a), _by_key(b)
    only = [key for key in rows_a if key not in rows_b], [key for key in rows_b if key not in rows_a]
    for missing, (has, lacks) in zip(only, ((path_a, path_b), (path_b, path_a)), strict=True):
        if missing and not common:
            raise DataError(
                f"{len(missing)} videos of {has} are not in {lacks}, such as '{missing[0][0]}': evaluate the same "
                "split, or compare those in both with --common"
            )
    # In an order that is nobody's own: so the other way round the same videos are drawn.
    both = sorted(key for key in rows_a if key in rows_b)
    for key in both:
        here, there = a.labels[rows_a[key]], b.labels[rows_b[key]]
        if here != there:
            raise DataError(
                f"the labels of '{key[0]}' are {_named(here, a)} in {path_a} and {_named(there, b)} in {path_b}: they "
                "are of other datasets"
            )
    labelled = [key for key in both if a.labels[rows_a[key]]]
    if not labelled:
        raise DataError(f"{path_a} and {path_b} have no video in common that has a label")
    labels = [a.labels[rows_a[key]] for key in labelled]
    scores = a.scores_NK[[rows_a[key] for key in labelled]], b.scores_NK[[rows_b[key] for key in labelled]]
    return _compared([key for key, _ in labelled], labels, scores, a, (len(only[0]), len(only[1])), seed)


def _compared(
    keys: Sequence[str],
    labels: Sequence[tuple[int, ...]],
    scores: tuple[np.ndarray, np.ndarray],
    a: Scores,
    only: tuple[int, int],
    seed: int,
) -> Comparison:
    ranks_a, ranks_b = (ranks(of_NK, labels) for of_NK in scores)
    top_k = min(5, len(a.class_names))
    hits_a, hits_b = (np.stack([of_N < 1, of_N < top_k], axis=1).astype(np.float64) for of_N in (ranks_a, ranks_b))
    first_N = np.array([of_video[0] for of_video in labels])
    resamples = Resamples(len(keys), seed)
    resampled = resamples.means(hits_b - hits_a)
    differences = {
        name: _difference(float(hits_a[:, i].mean()), float(hits_b[:, i].mean()), resampled[:, i])
        for i, name in enumerate(("top1", "top5"))
    }
    per_class = tuple(
        ClassChange(name, int(of.sum()), float(hits_a[of, 0].mean()), float(hits_b[of, 0].mean()))
        for number, name in enumerate(a.class_names)
        if (of := first_N == number).any()
    )
    if a.about.get("loss") != "sigmoid":
        by_class_R = resamples.group_means((hits_b - hits_a)[:, :1], first_N)[:, 0]
        mean_a, mean_b = (float(np.mean([getattr(of, which) for of in per_class])) for which in ("a", "b"))
        differences["mean_class_accuracy"] = _difference(mean_a, mean_b, by_class_R)
    guesses = [of_NK.argmax(axis=1).tolist() for of_NK in scores]
    changed = tuple(
        Changed(keys[i], labels[i], guesses[0][i], guesses[1][i], bool(hits_b[i, 0]))
        for i in np.flatnonzero(hits_a[:, 0] != hits_b[:, 0]).tolist()
    )
    gains = sum(video.is_gain for video in changed)
    p = float(binomtest(gains, len(changed), 0.5).pvalue) if changed else 1.0
    return Comparison(len(keys), *only, a.class_names, differences, p, changed, per_class)


def _difference(a: float, b: float, resampled_R: np.ndarray) -> Difference:
    return Difference(a, b, b - a, *interval(resampled_R))


def _by_key(dump: Scores) -> dict[tuple[str, int], int]:
    """The row of each key, with which occurrence of it that is: a video comes once for each of its segments."""
    seen: Counter[str] = Counter()
    rows = {}
    for row, key in enumerate(dump.keys):
        rows[key, seen[key]] = row
        seen[key] += 1
    return rows


def _differing(a: Sequence[str], b: Sequence[str]) -> str:
    if len(a) != len(b):
        return f"{len(a)} and {len(b)}"
    return next(f"class {i} is '{x}' and '{y}'" for i, (x, y) in enumerate(zip(a, b, strict=True)) if x != y)


def _named(labels: Sequence[int], dump: Scores) -> str:
    return " and ".join(f"'{dump.class_names[label]}'" for label in labels) or "none"
