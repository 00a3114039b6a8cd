"""The bootstrap over videos: how far a figure would move on another sample of as many videos.

Shape suffixes: N videos, R resamples of a part, M columns, G groups.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

RESAMPLES = 1000
# In per cent, of the resamples.
_TAILS = (2.5, 97.5)
# Counts held at a time: 64 MB.
_MOST_COUNTS = 1 << 23


class Resamples:
    """How often each of ``videos`` is drawn in each of 1,000 resamples of as many, the same for the same seed."""

    def __init__(self, videos: int, seed: int = 0) -> None:
        """Raises ValueError where there is no video to draw."""
        if videos < 1:
            raise ValueError("there is no video to draw")
        self._videos, self._seed = videos, seed

    def means(self, columns_NM: np.ndarray) -> np.ndarray:
        """The mean of each column in each resample, (1000, M) float64."""
        columns_NM = columns_NM.astype(np.float64)
        return np.concatenate([counts_RN @ columns_NM / self._videos for counts_RN in self._counts()])

    def group_means(self, columns_NM: np.ndarray, groups_N: np.ndarray) -> np.ndarray:
        """The mean over groups of the mean of each column in a group, in each resample, (1000, M) float64.

        ``groups_N`` are numbers of any kind. A group that no drawn video is of counts in no mean.
        """
        order_N = np.argsort(groups_N, kind="stable")
        starts_G = np.flatnonzero(np.diff(groups_N[order_N], prepend=groups_N[order_N[0]] - 1))
        columns_NM = columns_NM[order_N].astype(np.float64)
        parts = []
        for counts_RN in self._counts():
            counts_RN = counts_RN[:, order_N]
            videos_RG = np.add.reduceat(counts_RN, starts_G, axis=1)
            parts.append(
                np.stack(
                    [
                        np.divide(
                            np.add.reduceat(counts_RN * column_N, starts_G, axis=1), np.maximum(videos_RG, 1)
                        ).sum(axis=1, where=videos_RG > 0)
                        / (videos_RG > 0).sum(axis=1)
                        for column_N in columns_NM.T
                    ],
                    axis=1,
                )
            )
        return np.concatenate(parts)

    def _counts(self) -> Iterator[np.ndarray]:
        """Parts of the resamples, (R, N) float64."""
        draws = np.random.default_rng(self._seed)
        at_once = max(1, _MOST_COUNTS // self._videos)
        for first in range(0, RESAMPLES, at_once):
            counts_RN = np.empty((min(at_once, RESAMPLES - first), self._videos))
            for counts_N in counts_RN:
                counts_N[:] = np.bincount(draws.integers(self._videos, size=self._videos), minlength=self._videos)
            yield counts_RN


def interval(resampled_R: np.ndarray) -> tuple[float, float]:
    """The 95 % interval of a figure: the 2.5th and the 97.5th percentile of the resamples'."""
    low, high = np.percentile(resampled_R, _TAILS)
    return float(low), float(high)
