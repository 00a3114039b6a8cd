"""Multi-scale temporal window integration: one score of an untrimmed video, of those of its snippets.

As Wang et al. have it for untrimmed videos ("Temporal segment networks for action recognition in videos", TPAMI 2018),
which the paper follows on ActivityNet (appendix A.1).

Shape suffixes: N snippets of a video in a row, W windows, K classes, S snippets of a window.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

WINDOWS = (1, 2, 4, 8, 16)
# From one window to the next, in fifths of its length.
_STRIDE = 4
_LEAST_KEPT = 15
_SHARE_KEPT = 4


def integrated(scores_NK: np.ndarray, windows: Sequence[int] = WINDOWS) -> np.ndarray:
    """The scores of a video, (K,) float64, of those of its snippets, (N, K) float of any range.

    Windows of each of so many snippets begin at every multiple of 0.8 of their length, rounded up, that lies in the
    video; what reaches over its end is cut off there. A window's score is its snippets' highest, class by class. A
    scale's is the mean of its best windows: of W the ``max(15, W // 4)`` best, or all if they are fewer. The video's is
    the mean over scales.

    Raises ValueError if there is no snippet.
    """
    if not len(scores_NK):
        raise ValueError("there is no snippet to integrate")
    average_K: np.ndarray = np.mean([_of_scale(scores_NK.astype(np.float64), size) for size in windows], axis=0)
    return average_K


def _of_scale(scores_NK: np.ndarray, size: int) -> np.ndarray:
    stride = -(-_STRIDE * size // 5)
    windows = -(-len(scores_NK) // stride)
    beyond = (windows - 1) * stride + size - len(scores_NK)
    padded = np.pad(scores_NK, ((0, max(0, beyond)), (0, 0)), constant_values=-np.inf)
    best_WK = sliding_window_view(padded, size, axis=0)[::stride][:windows].max(axis=-1)
    kept = max(_LEAST_KEPT, windows // _SHARE_KEPT)
    if kept < windows:
        best_WK = np.partition(best_WK, windows - kept, axis=0)[-kept:]
    average_K: np.ndarray = best_WK.mean(axis=0)
    return average_K
