"""What a video is read from: a regular file, opened without waiting for it or following what it says."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class Unreadable(Exception):
    """A source that cannot become a video of the dataset. ``ffmpeg_message`` is what ffmpeg said, if it did.

    Of ``reason`` the part before a colon is of a kind; what follows differs from video to video.
    """

    def __init__(self, reason: str, ffmpeg_message: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.ffmpeg_message = ffmpeg_message


@contextmanager
def opened(source: Path) -> Iterator[int]:
    """A descriptor of a regular file. Raises Unreadable for what is no file, or cannot be opened."""
    try:
        # A FIFO would make us wait for somebody to write to it.
        descriptor = os.open(source, os.O_RDONLY | os.O_NONBLOCK)
    except OSError as error:
        raise Unreadable(f"cannot be opened: {error.strerror}") from None
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise Unreadable("no regular file")
        yield descriptor
    finally:
        os.close(descriptor)
