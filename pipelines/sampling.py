"""Which frames of a video are used: action units, one from each section (section 3.1 of the paper).

A video of N frames is cut into U sections, section i = [i·N/U, (i+1)·N/U). An action unit is T frames, ``stride``
apart, and so spans (T - 1)·stride + 1 frames.
"""

from __future__ import annotations

import numpy as np


def fit_stride(frames: int, units: int, unit_frames: int, stride: int) -> int:
    """The largest stride up to ``stride`` with which a unit fits its section, at least 1 (for short videos)."""
    if unit_frames == 1:
        return stride
    return max(1, min(stride, (frames // units - 1) // (unit_frames - 1)))


def random_units(
    frames: int,
    units: int,
    unit_frames: int,
    stride: int,
    draws: np.ndarray,
    keyframes: np.ndarray | None = None,
) -> np.ndarray:
    """Frame indices of training units, (units, unit_frames) int64.

    A unit that fits its section lies inside it, its start uniform over all that fit. One that does not has its
    centre uniform in the section, and indices are clamped to the video. ``draws`` (units,) holds numbers in
    [0, 1), one for each unit.

    With ``keyframes`` (ascending, int64) every unit starts on one of them: uniform over those among the starts that
    fit, or if there is none, on the one nearest to the start that was drawn. What then lies behind the video is the
    unit's last frame that does not, again: with a stride that is a multiple of the GOP, only keyframes are used.
    Where every frame is a keyframe or none is, ``keyframes`` change nothing.
    """
    low = np.arange(units) * frames / units
    first, end = np.ceil(low).astype(np.int64), np.ceil(low + frames / units).astype(np.int64)
    span = (unit_frames - 1) * stride + 1
    starts_that_fit = end - first - span + 1
    inside = first + np.floor(draws * starts_that_fit).astype(np.int64)
    around = _start_of_centre(low + draws * (frames / units), span)
    drawn = np.where(starts_that_fit >= 1, inside, around)
    if keyframes is None or len(keyframes) in (0, frames):
        return _indices(drawn, frames, unit_frames, stride)
    fitting = np.searchsorted(keyframes, first)
    count = np.searchsorted(keyframes, first + np.maximum(starts_that_fit, 0)) - fitting
    uniform = fitting + np.floor(draws * count).astype(np.int64)
    start = keyframes[np.where(count > 0, uniform, _nearest(keyframes, drawn))]
    steps = np.minimum(np.arange(unit_frames), (frames - 1 - start[:, None]) // stride)
    indices: np.ndarray = start[:, None] + steps * stride
    return indices


def centred_units(frames: int, units: int, unit_frames: int, stride: int) -> np.ndarray:
    """Frame indices of test units, each centred in its section and clamped to the video, (units, unit_frames) int64."""
    centre = (np.arange(units) + 0.5) * frames / units
    start = _start_of_centre(centre, (unit_frames - 1) * stride + 1)
    return _indices(start, frames, unit_frames, stride)


def _nearest(keyframes: np.ndarray, frames: np.ndarray) -> np.ndarray:
    """Which of ``keyframes`` is nearest to each of ``frames``; of two as near, the earlier."""
    after = np.minimum(np.searchsorted(keyframes, frames), len(keyframes) - 1)
    before = np.maximum(after - 1, 0)
    return np.where(frames - keyframes[before] <= keyframes[after] - frames, before, after)


def _start_of_centre(centre: np.ndarray, span: int) -> np.ndarray:
    return np.floor(centre - span / 2 + 0.5).astype(np.int64)


def _indices(start: np.ndarray, frames: int, unit_frames: int, stride: int) -> np.ndarray:
    return np.clip(start[:, None] + np.arange(unit_frames) * stride, 0, frames - 1)
