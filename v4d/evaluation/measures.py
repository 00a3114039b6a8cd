"""What the scores of videos are worth: accuracy, by class too, confusion and calibration, with bootstrap intervals.

Shape suffixes: N videos, K classes, B bins.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from scipy.stats import binomtest
from torch import Tensor
from torchmetrics.functional.classification import multiclass_calibration_error, multiclass_confusion_matrix

from v4d.evaluation.bootstrap import Resamples, interval
from v4d.evaluation.mean_average_precision import Ranking
from v4d.evaluation.scores_file import Scores

# Of confidence, as in Guo et al., "On calibration of modern neural networks", ICML 2017.
_BINS = 15
_RANKED_AT_ONCE = 4096


@dataclass(frozen=True)
class Figure:
    """A figure, and its 95 % interval over videos where it has one: by bootstrap, a class's accuracy by Wilson's."""

    value: float
    low: float | None = None
    high: float | None = None

    def __str__(self) -> str:
        between = "" if self.low is None or self.high is None else f" ({self.low:.1%} to {self.high:.1%})"
        return f"{self.value:.1%}{between}"


@dataclass(frozen=True, eq=False)
class Measures:
    """What was measured over the ``videos`` that have a label, each figure 0 to 1.

    ``figures`` by name, in the order to show them: ``top1`` and ``top5``, the share of the videos that have a label
    among the 1 or ``top_k`` highest scores (5, or as many as there are classes); where each has one label also
    ``mean_class_accuracy``, over the classes that have videos, and ``calibration_error``. ``videos_K`` (int64) says how
    many videos have each label. With one label ``accuracy_K`` (float64) is the top-1 of each class's videos, NaN where
    there are none, and ``confusion_KK`` (int64) counts videos by label (row) and class of the highest score (column).
    Where videos may have several there are the figures and ``average_precision_K`` of ``ranking_figures``.
    """

    videos: int
    top_k: int
    figures: dict[str, Figure]
    videos_K: np.ndarray
    accuracy_K: np.ndarray | None = None
    confusion_KK: np.ndarray | None = None
    average_precision_K: np.ndarray | None = None

    def accuracy_of(self, number: int) -> Figure | None:
        """The accuracy of a class, by its number, with Wilson's score interval; None where no video is of it.

        Wilson, "Probable inference, the law of succession, and statistical inference", JASA 1927. It holds for the few
        videos that a class has, all or none of which may be right, where a bootstrap's would be a point.
        """
        videos = int(self.videos_K[number])
        if self.confusion_KK is None or not videos:
            return None
        hits = int(self.confusion_KK[number, number])
        between = binomtest(hits, videos).proportion_ci(0.95, "wilson")
        return Figure(hits / videos, float(between.low), float(between.high))

    def as_document(self, class_names: Sequence[str]) -> dict[str, Any]:
        """For JSON, with None for NaN: each figure by its name, ``intervals``, ``per_class``, maybe ``confusion``."""
        per_class = []
        for number, name in enumerate(class_names):
            said: dict[str, Any] = {"class": name, "videos": int(self.videos_K[number])}
            if self.accuracy_K is not None:
                accuracy = self.accuracy_of(number)
                said["accuracy"] = accuracy and accuracy.value
                said["interval"] = accuracy and [accuracy.low, accuracy.high]
            if self.average_precision_K is not None:
                average = float(self.average_precision_K[number])
                said["average_precision"] = None if math.isnan(average) else average
            per_class.append(said)
        document: dict[str, Any] = {
            name: None if math.isnan(figure.value) else figure.value for name, figure in self.figures.items()
        }
        document["intervals"] = {
            name: [figure.low, figure.high] for name, figure in self.figures.items() if figure.low is not None
        }
        document["per_class"] = per_class
        if self.confusion_KK is not None:
            document["confusion"] = self.confusion_KK.tolist()
        return document


def measures_of(dump: Scores) -> Measures:
    """The measures of a dump: those of several labels where its recipe's loss is sigmoid.

    There, and where the dataset is ActivityNet, with those of its benchmark: see ``ranking_figures``. Where a video has
    several labels although the loss is softmax, any of them will do in top-1 and top-5, and the first one is its class.
    """
    if dump.is_multi_label:
        measures = multi_label_measures(dump.scores_NK, dump.labels)
    else:
        are_logits = dump.about.get("scores") == "logits"
        measures = single_label_measures(dump.scores_NK, dump.labels_N, are_logits=are_logits)
        if any(len(of_video) > 1 for of_video in dump.labels):
            of_any = multi_label_measures(dump.scores_NK, dump.labels).figures
            measures = replace(measures, figures=measures.figures | of_any)
    if dump.is_ranked:
        figures, average_precision_K = ranking_figures(dump.scores_NK, dump.labels)
        return replace(measures, figures=measures.figures | figures, average_precision_K=average_precision_K)
    return measures


def single_label_measures(
    scores_NK: np.ndarray, labels_N: np.ndarray, *, are_logits: bool = False, seed: int = 0
) -> Measures:
    """Measure scores, (N, K) float, of videos with one label each, (N,) int, -1 where nobody knows it.

    The calibration error is the expected one, of 15 bins of equal width, by absolute differences: of the highest score,
    or of its share after a softmax if they ``are_logits``. Where no video has a label, figures are NaN.
    """
    classes = scores_NK.shape[1]
    labelled_N = labels_N >= 0
    scores_NK, labels_N = scores_NK[labelled_N], labels_N[labelled_N].astype(np.int64)
    ranks_N = ranks(scores_NK, [(label,) for label in labels_N.tolist()])
    shares = torch.from_numpy(np.ascontiguousarray(scores_NK, dtype=np.float32))
    # A mean of shares may be above 1 by a rounding, which would be taken for logits.
    shares = shares.softmax(dim=1) if are_logits else shares.clamp(0, 1)
    labels = torch.from_numpy(labels_N)
    videos_K = np.bincount(labels_N, minlength=classes)
    top_k = min(5, classes)
    if not len(labels_N):
        figures = dict.fromkeys(("top1", "top5", "mean_class_accuracy", "calibration_error"), Figure(np.nan))
        return Measures(0, top_k, figures, videos_K, np.full(classes, np.nan), np.zeros((classes, classes), np.int64))

    predicted = torch.from_numpy(scores_NK.argmax(axis=1))
    # What it would validate: that there are two classes or more, which here need not be.
    confusion_KK = multiclass_confusion_matrix(predicted, labels, classes, validate_args=False).numpy()
    with np.errstate(invalid="ignore"):
        accuracy_K = confusion_KK.diagonal() / videos_K
    options: dict[str, Any] = {"n_bins": _BINS, "norm": "l1", "validate_args": False}
    error = multiclass_calibration_error(shares, labels, classes, **options).item()

    hits_N = np.stack([ranks_N < 1, ranks_N < top_k], axis=1)
    resamples = Resamples(len(labels_N), seed)
    gaps_NB = _calibration_gaps(shares, hits_N[:, 0])
    means = resamples.means(np.concatenate([hits_N, gaps_NB], axis=1))
    errors_R = np.abs(means[:, 2:]).sum(axis=1)
    # Chance alone makes the bins of a resample differ from the sample's, which adds to its error: it is taken off.
    errors_R = np.clip(errors_R - errors_R.mean() + error, 0, 1)
    by_class_R = resamples.group_means(hits_N[:, :1], labels_N)[:, 0]
    figures = {
        "top1": Figure(float(hits_N[:, 0].mean()), *interval(means[:, 0])),
        "top5": Figure(float(hits_N[:, 1].mean()), *interval(means[:, 1])),
        "mean_class_accuracy": Figure(float(np.nanmean(accuracy_K)), *interval(by_class_R)),
        "calibration_error": Figure(error, *interval(errors_R)),
    }
    return Measures(len(labels_N), top_k, figures, videos_K, accuracy_K, confusion_KK)


def multi_label_measures(scores_NK: np.ndarray, labels: Sequence[Sequence[int]], *, seed: int = 0) -> Measures:
    """Measure scores, (N, K) float, of videos with any number of labels; those without one count in nothing.

    Where no video has a label, figures are NaN.
    """
    classes = scores_NK.shape[1]
    labelled = [number for number, of_video in enumerate(labels) if len(of_video)]
    found = [tuple(dict.fromkeys(labels[number])) for number in labelled]
    videos_K = np.bincount([label for of_video in found for label in of_video], minlength=classes)
    top_k = min(5, classes)
    if not labelled:
        return Measures(0, top_k, dict.fromkeys(("top1", "top5"), Figure(np.nan)), videos_K)
    ranks_N = ranks(scores_NK[labelled], found)
    hits_N = np.stack([ranks_N < 1, ranks_N < top_k], axis=1)
    means = Resamples(len(labelled), seed).means(hits_N)
    figures = {
        name: Figure(float(hits_N[:, i].mean()), *interval(means[:, i])) for i, name in enumerate(("top1", "top5"))
    }
    return Measures(len(labelled), top_k, figures, videos_K)


def ranking_figures(
    scores_NK: np.ndarray, labels: Sequence[Sequence[int]], *, seed: int = 0
) -> tuple[dict[str, Figure], np.ndarray]:
    """The figures of ActivityNet's benchmark of untrimmed videos, over the videos that have a label.

    ``mean_average_precision`` (see ``Ranking``), and ``hit1`` and ``hit3``: the share of videos of which a label is
    among the 1 or 3 highest scores. And the average precision of each class, (K,) float64, NaN for those that no video
    has. Where no video has a label, all of them are NaN.
    """
    labelled = [number for number, of_video in enumerate(labels) if len(of_video)]
    if not labelled:
        nothing = dict.fromkeys(("mean_average_precision", "hit1", "hit3"), Figure(np.nan))
        return nothing, np.full(scores_NK.shape[1], np.nan)
    scores_NK, found = scores_NK[labelled], [labels[number] for number in labelled]
    ranking = ranking_of(scores_NK, found)
    ranks_N = ranks(scores_NK, found)
    hits_N = np.stack([ranks_N < 1, ranks_N < 3], axis=1)
    resamples = Resamples(len(found), seed)
    means = resamples.means(hits_N)
    figures = {
        "mean_average_precision": Figure(ranking.mean(), *interval(resamples.figures(ranking.means))),
        "hit1": Figure(float(hits_N[:, 0].mean()), *interval(means[:, 0])),
        "hit3": Figure(float(hits_N[:, 1].mean()), *interval(means[:, 1])),
    }
    return figures, ranking.average_precisions()


def ranking_of(scores_NK: np.ndarray, labels: Sequence[Sequence[int]]) -> Ranking:
    """The ranking of scores, (N, K) float, of videos by all their labels."""
    labels_NK = np.zeros(scores_NK.shape, bool)
    for video, of_video in enumerate(labels):
        labels_NK[video, list(of_video)] = True
    return Ranking(scores_NK, labels_NK)


def ranks(scores_NK: np.ndarray, labels: Sequence[Sequence[int]]) -> np.ndarray:
    """How many classes come before the best of each video's labels, (N,) int64; every video has one.

    Of classes with the same score the one with the lower number comes first.
    """
    parts = [np.zeros(0, np.int64)]
    for first in range(0, len(scores_NK), _RANKED_AT_ONCE):
        part_NK, of_part = scores_NK[first : first + _RANKED_AT_ONCE], labels[first : first + _RANKED_AT_ONCE]
        is_label_NK = np.zeros(part_NK.shape, bool)
        is_label_NK[np.repeat(np.arange(len(of_part)), [*map(len, of_part)]), [n for of in of_part for n in of]] = True
        best_N1 = np.where(is_label_NK, part_NK, -np.inf).argmax(axis=1)[:, None]
        score_N1 = np.take_along_axis(part_NK, best_N1, axis=1)
        is_as_high_NK = (part_NK == score_N1) & (np.arange(part_NK.shape[1]) < best_N1)
        parts.append(((part_NK > score_N1) | is_as_high_NK).sum(axis=1))
    return np.concatenate(parts)


def _calibration_gaps(shares_NK: Tensor, hits_N: np.ndarray) -> np.ndarray:
    """Hit less confidence of each video, in the column of its bin of confidence and 0 in the others, (N, B) float64.

    The absolute values of the columns' means add up to the calibration error.
    """
    confidence_N = shares_NK.amax(dim=1)
    # As torchmetrics has them: each with its lower edge, and 1 alone in one more.
    bins_N = torch.bucketize(confidence_N, torch.linspace(0, 1, _BINS + 1), right=True) - 1
    gaps_NB = np.zeros((len(hits_N), _BINS + 1))
    gaps_NB[np.arange(len(hits_N)), bins_N.numpy()] = hits_N - confidence_N.numpy().astype(np.float64)
    return gaps_NB
