"""The evaluations of a run: their dumps, what these are worth, and the mistakes that the network was surest of.

Shape suffixes: N videos, K classes.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from preprocess.errors import DataError, UsageError
from v4d.evaluation.measures import Figure, Measures, measures_of
from v4d.evaluation.scores_file import SCORES, Scores, read_scores
from v4d.evaluation.tables import titled


@dataclass(frozen=True)
class Mistake:
    """A video whose surest class is none of its own.

    ``occurrence`` says which of the dump's rows with this key it is, from 0: of an untrimmed video each segment has
    one. ``confidence`` is the share or score of ``predicted``, ``of_labels`` those of its ``labels``, 0 to 1.
    """

    key: str
    occurrence: int
    labels: tuple[int, ...]
    predicted: int
    confidence: float
    of_labels: tuple[float, ...]


@dataclass(frozen=True)
class ClassRow:
    """A class in one evaluation.

    ``accuracy``, with its interval, is None where no video is of the class, or a video may be of several.
    ``average_precision`` is None where no video is of it, or it was not measured. ``taken_for`` is the other class that
    most of its videos were taken for, and how many were, if any was.
    """

    number: int
    name: str
    videos: int
    accuracy: Figure | None
    average_precision: float | None
    taken_for: tuple[str, int] | None


@dataclass(frozen=True, eq=False)
class Evaluation:
    """An evaluation of a run: the ``name`` of its folder, its dump, and what was measured."""

    name: str
    dump: Scores
    measures: Measures

    @property
    def protocol(self) -> str:
        """What was evaluated and how, in a few words."""
        about = self.dump.about
        parts = [f"split {about['split']}"]
        if "protocol" in about:
            parts.append(f"protocol {about['protocol']}")
        if about.get("units_per_second"):
            parts.append(f"units per second {about['units_per_second']:g}")
        for name, title in (("u_infer", "units"), ("clips", "clips"), ("crops", "crops")):
            if about.get(name):
                parts.append(f"{about[name]} {title}" if about[name] != 1 else f"1 {title[:-1]}")
        parts.extend(f"{name} {about[name]}" for name in ("reverse", "shuffle") if about.get(name))
        if "step" in about:
            parts.append(f"step {about['step']:,}")
        return ", ".join([*parts, f"scores {about['scores']}"])

    @property
    def figures(self) -> dict[str, Figure]:
        """The measures by name, without the hits that any video is, and those that have another name there too.

        Where a video may be of several labels top-1 is Hit@1.
        """
        most = {"top5": 5, "hit3": 3}
        left_out = {name for name, k in most.items() if k >= len(self.dump.class_names)}
        if self.measures.confusion_KK is None:
            left_out |= {"top1", "top5"}
        return {name: one for name, one in self.measures.figures.items() if name not in left_out}

    def title(self, figure: str) -> str:
        """What the page calls one of the ``measures``."""
        return titled(figure, self.measures.top_k).capitalize()

    def classes(self) -> list[ClassRow]:
        """All classes, those of the lowest accuracy, or average precision, first, those without videos last."""
        measures, names = self.measures, self.dump.class_names
        rows = []
        for number, name in enumerate(names):
            videos, precision_K = int(measures.videos_K[number]), measures.average_precision_K
            precision = float(precision_K[number]) if precision_K is not None and videos else None
            accuracy = measures.accuracy_of(number)
            rows.append(ClassRow(number, name, videos, accuracy, precision, self._taken_for(number)))

        def place(row: ClassRow) -> tuple[bool, float, int, int]:
            worth = row.average_precision if row.accuracy is None else row.accuracy.value
            return worth is None, worth or 0.0, -row.videos, row.number

        return sorted(rows, key=place)

    def _taken_for(self, number: int) -> tuple[str, int] | None:
        if self.measures.confusion_KK is None:
            return None
        others = self.measures.confusion_KK[number].copy()
        others[number] = 0
        most = int(others.argmax())
        return (self.dump.class_names[most], int(others[most])) if others[most] else None

    def surest_mistakes(self, most: int) -> list[Mistake]:
        """The mistakes that the network was surest of, the surest first, at most so many."""
        dump = self.dump
        if not len(dump.labels_N):
            return []
        shares_NK = dump.scores_NK.astype(np.float64)
        if dump.about.get("scores") == "logits":
            shares_NK = np.exp(shares_NK - shares_NK.max(axis=1, keepdims=True))
            shares_NK /= shares_NK.sum(axis=1, keepdims=True)
        predicted_N = dump.scores_NK.argmax(axis=1)
        confidence_N = shares_NK[np.arange(len(predicted_N)), predicted_N]
        wrong = self._wrong()
        surest = wrong[np.argsort(-confidence_N[wrong], kind="stable")][:most]
        seen: Counter[str] = Counter()
        occurrences = []
        for key in dump.keys:
            occurrences.append(seen[key])
            seen[key] += 1
        return [
            Mistake(
                key=dump.keys[row],
                occurrence=occurrences[row],
                labels=dump.labels[row],
                predicted=int(predicted_N[row]),
                confidence=float(confidence_N[row]),
                of_labels=tuple(shares_NK[row, list(dump.labels[row])].tolist()),
            )
            for row in surest.tolist()
        ]

    @property
    def mistakes(self) -> int:
        """How many videos have a label, and another class that is surer."""
        return len(self._wrong())

    def _wrong(self) -> np.ndarray:
        """The rows of the dump whose highest score is that of none of their labels, if they have one."""
        if not len(self.dump.labels_N):
            return np.zeros(0, np.int64)
        predicted = self.dump.scores_NK.argmax(axis=1).tolist()
        rows = enumerate(zip(self.dump.labels, predicted, strict=True))
        return np.array([row for row, (labels, top) in rows if len(labels) and top not in labels], np.int64)


def read_evaluations(run: Path) -> tuple[list[Evaluation], list[str]]:
    """The evaluations in a run's folder, by name; and what is to be said of dumps that cannot be read."""
    found, notes = [], []
    for folder in sorted(path.parent for path in run.glob(f"*/{SCORES}")):
        try:
            dump = read_scores(folder)
            found.append(Evaluation(folder.name, dump, measures_of(dump)))
        except DataError as error:
            notes.append(str(error))
    return found, notes


def choose_evaluation(found: list[Evaluation], name: str | None) -> Evaluation | None:
    """The evaluation whose mistakes are shown in pictures: the one in the folder ``name``, by default the main one.

    That is of videos not trained on, of the last checkpoint, of the order of frames as it is, of Algorithm 1, of the
    most units. None if there are none; raises UsageError if there is none of that name.
    """
    if name is not None:
        for evaluation in found:
            if evaluation.name == name:
                return evaluation
        there = ", ".join(evaluation.name for evaluation in found) or "none"
        raise UsageError(f"the run has no evaluation {name}; there are: {there}")

    def rank(evaluation: Evaluation) -> tuple[bool, int, bool, bool, int]:
        about = evaluation.dump.about
        held_out = about["split"] != "train"
        in_order = not about.get("reverse") and not about.get("shuffle")
        is_usual = about.get("protocol", "v4d") == "v4d"
        return held_out, about.get("step", 0), in_order, is_usual, about.get("u_infer") or 0

    return max(found, key=rank, default=None)
