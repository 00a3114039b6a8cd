"""A clip of frames as a video file."""

from __future__ import annotations

import subprocess
from pathlib import Path

import ffmpeg
import numpy as np

from preprocess.durable_files import replace_atomically
from preprocess.errors import DataError
from preprocess.ffmpeg import executable


def write_clip(path: Path, frames_FHWC: np.ndarray, fps: int) -> None:
    """Write frames (F, H, W, 3) uint8 RGB, of even height and width, as H.264 in MP4: whole, or not at all.

    Raises DataError if ffmpeg cannot, UsageError if there is none, and OSError.
    """
    height, width = frames_FHWC.shape[1:3]
    source = ffmpeg.input("pipe:0", format="rawvideo", pix_fmt="rgb24", s=f"{width}x{height}", r=fps)
    with replace_atomically(path) as temporary:
        settings = {"vcodec": "libx264", "preset": "veryfast", "crf": 18, "pix_fmt": "yuv420p", "threads": 1}
        output = source.output(f"file:{temporary}", format="mp4", **settings)
        command = output.overwrite_output().compile(cmd=executable())
        done = subprocess.run([*command, "-loglevel", "error"], input=frames_FHWC.tobytes(), capture_output=True)
        if done.returncode:
            raise DataError(f"ffmpeg cannot write {path}: {done.stderr.decode(errors='replace').strip()[-300:]}")
