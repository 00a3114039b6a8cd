"""Mean average precision as ActivityNet's benchmark of untrimmed videos has it, with how often each video counts.

Average precision is the area under the interpolated curve of precision over recall: at each recall the best precision
there or further on, at every recall that occurs, as in PASCAL VOC from 2010 on. torchmetrics' and scikit-learn's do not
interpolate: theirs are lower wherever precision rises with recall, the same where it does not. They also know no video
that is predicted twice, and none that is not predicted.

Shape suffixes: N predictions (of one or several videos), V videos, K classes, H hits of a class, R resamples.
"""

from __future__ import annotations

import numpy as np
from scipy.sparse import csr_array


class Ranking:
    """Predictions of videos in the order of their scores, class by class.

    A prediction is a hit where its video has the class; of several that one video has of a class, the first alone. Of
    predictions with the same score those that are no hits come first: so neither the order of videos nor a score that
    tells nothing apart gains anything. (The benchmark leaves it to chance.)
    """

    def __init__(self, scores_NK: np.ndarray, labels_VK: np.ndarray, videos_N: np.ndarray | None = None) -> None:
        """Rank scores, (N, K) float, where NaN is no prediction, given what each video shows, (V, K) bool.

        ``videos_N`` (int64) says which video each row of scores is of, by default one after the other. A video without
        a label has no hits, and its predictions are wrong, as for the benchmark: leave out those that nobody looked at.
        A video without predictions is missed.

        Raises ValueError if shapes do not go together.
        """
        rows, classes = scores_NK.shape
        self._labels_VK = labels_VK.astype(bool)
        self._labels_KV = csr_array(self._labels_VK.T.astype(np.int32))
        self._videos_N = np.arange(rows) if videos_N is None else videos_N
        if labels_VK.shape[1] != classes or len(self._videos_N) != rows:
            raise ValueError(f"scores {scores_NK.shape}, labels {labels_VK.shape}, videos {self._videos_N.shape}")
        if rows and not 0 <= self._videos_N.min() <= self._videos_N.max() < len(labels_VK):
            raise ValueError(f"predictions are of videos 0 to {len(labels_VK) - 1}")
        hits_KN = self._first_hits(scores_NK).T
        order_KN = np.lexsort((hits_KN, -scores_NK.T), axis=1)
        is_hit_KN = np.take_along_axis(hits_KN, order_KN, axis=1)
        # Of each class, for each hit how many predictions each video has since the hit before, and the hits' videos.
        self._classes = []
        ones_N = np.ones(rows, np.int32)
        for order_N, is_hit_N in zip(order_KN, is_hit_KN, strict=True):
            beyond_H = np.append(0, np.flatnonzero(is_hit_N) + 1)
            up_to_last = self._videos_N[order_N[: beyond_H[-1]]].astype(np.int32)
            entries = ones_N[: len(up_to_last)], up_to_last, beyond_H
            since_HV = csr_array(entries, shape=(len(beyond_H) - 1, len(labels_VK)))
            self._classes.append((since_HV, up_to_last[beyond_H[1:] - 1]))

    def _first_hits(self, scores_NK: np.ndarray) -> np.ndarray:
        """Which predictions are hits, (N, K) bool."""
        hits_NK: np.ndarray = self._labels_VK[self._videos_N] & ~np.isnan(scores_NK)
        rows, classes = np.nonzero(hits_NK)
        videos = self._videos_N[rows]
        by_pair = np.lexsort((-scores_NK[rows, classes], videos, classes))
        pairs = (classes * len(self._labels_VK) + videos)[by_pair]
        again = by_pair[1:][pairs[1:] == pairs[:-1]]
        hits_NK[rows[again], classes[again]] = False
        return hits_NK

    def average_precisions(self, times_RV: np.ndarray | None = None) -> np.ndarray:
        """The average precision of each class, 0 to 1, NaN for those that no video has: (K,) float64.

        With ``times_RV`` (whole numbers from 0 on), how often each video counts in each of R resamples: (R, K).
        """
        if times_RV is None:
            once: np.ndarray = self.average_precisions(np.ones((1, len(self._labels_VK))))[0]
            return once
        times_VR = np.ascontiguousarray(times_RV.T, dtype=np.int32)
        videos_RK = (self._labels_KV @ times_VR).T
        area_RK = np.stack([_area(times_VR, *of_class) for of_class in self._classes], axis=1)
        average_RK: np.ndarray = np.divide(area_RK, videos_RK, out=np.full(area_RK.shape, np.nan), where=videos_RK > 0)
        return average_RK

    def means(self, times_RV: np.ndarray) -> np.ndarray:
        """The mean over the classes that videos have, in each resample, (R,) float64; NaN where there is none."""
        average_RK = self.average_precisions(times_RV)
        has_RK = ~np.isnan(average_RK)
        count_R = has_RK.sum(axis=1)
        total_R = average_RK.sum(axis=1, where=has_RK)
        mean_R: np.ndarray = np.divide(total_R, count_R, out=np.full(len(total_R), np.nan), where=count_R > 0)
        return mean_R

    def mean(self) -> float:
        """The mean over the classes that videos have, 0 to 1; NaN if there is none."""
        return float(self.means(np.ones((1, len(self._labels_VK))))[0])


def _area(times_VR: np.ndarray, since_HV: csr_array, videos_H: np.ndarray) -> np.ndarray:
    """The area under a class's curve, times its number of videos, (R,) float64."""
    if not len(videos_H):
        return np.zeros(times_VR.shape[1])
    times_HR = times_VR[videos_H]
    # Of 240,000 videos and 400 classes this is what all of evaluation's end waits for: no row of times is copied.
    seen_HR = (since_HV @ times_VR).cumsum(axis=0)
    # A hit whose video does not count adds nothing, and has no better precision than the hit before it.
    precision_HR = times_HR.cumsum(axis=0) / np.maximum(seen_HR, 1)
    from_here_on_HR = np.maximum.accumulate(precision_HR[::-1], axis=0)[::-1]
    area_R: np.ndarray = (times_HR * from_here_on_HR).sum(axis=0)
    return area_R
