"""Decoders of whole video files, each used as its own documentation advises for frames here and there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from preprocess.errors import DataError


class Decoded(NamedTuple):
    """Pictures in the order asked for, uint8 RGB (F, H, W, C), and how many were decoded for them, if that is known."""

    pictures: np.ndarray
    frames: int | None


def by_decord(file: Path, frames: np.ndarray) -> Decoded:
    """One ``get_batch``; one thread, since several videos are decoded at a time."""
    import decord

    reader = decord.VideoReader(str(file), num_threads=1)
    return Decoded(reader.get_batch(frames).asnumpy(), None)


def by_torchcodec(file: Path, frames: np.ndarray) -> Decoded:
    """One ``get_frames_at`` with exact seeking."""
    from torchcodec.decoders import VideoDecoder  # type: ignore[attr-defined]

    decoder = VideoDecoder(file, dimension_order="NHWC", num_ffmpeg_threads=1)
    return Decoded(decoder.get_frames_at(frames.tolist()).data.numpy(), None)


def by_pyav(file: Path, frames: np.ndarray) -> Decoded:
    """Decode forward; to the next keyframe before a wanted frame by a seek, where that skips frames.

    Frame ``i`` is the one shown at ``i`` / rate seconds, or soonest after it. Raises DataError where the file has none.
    """
    import av

    pictures: dict[int, np.ndarray] = {}
    decoded = 0
    with av.open(str(file)) as container:
        stream: Any = container.streams.video[0]
        stream.thread_type = "NONE"
        tick = 1 / (stream.average_rate * stream.time_base)
        first = stream.start_time or 0
        keyframes = np.array([entry.timestamp for entry in stream.index_entries if entry.is_keyframe])
        at, decoder = None, container.decode(stream)
        for wanted in np.unique(frames).tolist():
            # Half a frame early, for timestamps are rounded.
            due = first + (wanted - 0.5) * tick
            before = keyframes[keyframes <= due + tick]
            if len(before) and (at is None or before[-1] > at):
                container.seek(int(due + tick), stream=stream)
                decoder = container.decode(stream)
            for picture in decoder:
                decoded += 1
                at = picture.pts
                if picture.pts >= due:
                    pictures[wanted] = picture.to_ndarray(format="rgb24")
                    break
            else:
                raise DataError(f"{file} has no frame {wanted}: it ends before")
    return Decoded(np.stack([pictures[frame] for frame in frames.tolist()]), decoded)


DECODERS: dict[str, Callable[[Path, np.ndarray], Decoded]] = {
    "decord": by_decord,
    "torchcodec": by_torchcodec,
    "PyAV": by_pyav,
}
NEEDS = {"decord": ("decord", "cv2"), "torchcodec": ("torchcodec.decoders", "cv2"), "PyAV": ("av", "cv2")}
