"""Which frames of a video are used: action units, one from each section (section 3.1 of the paper).

A video of N frames is cut into U sections, section i = [i·N/U, (i+1)·N/U). An action unit is T frames, ``stride``
apart, and so spans (T - 1)·stride + 1 frames.
"""

from __future__ import annotations

from math import ceil, floor

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
    if keyframes is not None and len(keyframes) in (0, frames):
        keyframes = None
    span, section = (unit_frames - 1) * stride + 1, frames / units
    starts = []
    # In plain numbers: of so few, NumPy's functions cost more.
    for unit, draw in enumerate(draws.tolist()):
        low = unit * frames / units
        first = ceil(low)
        starts_that_fit = ceil(low + section) - first - span + 1
        fits = starts_that_fit >= 1
        start = first + floor(draw * starts_that_fit) if fits else floor(low + draw * section - span / 2 + 0.5)
        if keyframes is not None:
            start = _keyframe_start(keyframes, range(first, first + max(starts_that_fit, 0)), start, draw)
        starts.append(start)
    begin = np.array(starts)[:, None]
    last = frames - 1 if keyframes is None else frames - 1 - (frames - 1 - begin) % stride
    return _indices(begin, last, unit_frames, stride)


def centred_units(frames: int, units: int, unit_frames: int, stride: int) -> np.ndarray:
    """Frame indices of test units, each centred in its section and clamped to the video, (units, unit_frames) int64."""
    centre = (np.arange(units) + 0.5) * frames / units
    start = np.floor(centre - ((unit_frames - 1) * stride + 1) / 2 + 0.5).astype(np.int64)
    return _indices(start[:, None], frames - 1, unit_frames, stride)


def even_clips(frames: int, clips: int, clip_frames: int, stride: int) -> np.ndarray:
    """Frame indices of test clips at even distances, (clips, clip_frames) int64.

    The first begins with the video and the last ends with it; a single one is centred. Where a clip is longer than the
    video, all are centred, and clamped to the video.
    """
    room = frames - ((clip_frames - 1) * stride + 1)
    share = np.linspace(0, 1, clips) if clips > 1 and room > 0 else np.full(clips, 0.5)
    start = np.floor(share * room + 0.5).astype(np.int64)
    return _indices(start[:, None], frames - 1, clip_frames, stride)


def _keyframe_start(keyframes: np.ndarray, fitting: range, drawn: int, draw: float) -> int:
    """The keyframe that ``draw`` picks among the starts that fit, or the one nearest to ``drawn`` if there is none."""
    begin, end = np.searchsorted(keyframes, (fitting.start, fitting.stop)).tolist()
    if begin < end:
        return int(keyframes[begin + floor(draw * (end - begin))])
    # The first of two as near is the earlier.
    return int(keyframes[np.abs(keyframes - drawn).argmin()])


def _indices(start: np.ndarray, last: np.ndarray | int, unit_frames: int, stride: int) -> np.ndarray:
    """The frames of units from ``start`` (units, 1) on, none before the video and none behind ``last``."""
    return np.minimum(np.maximum(start + np.arange(0, unit_frames * stride, stride), 0), last)
