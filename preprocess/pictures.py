"""A folder of numbered pictures as a video, as Something-Something comes."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import IO

from preprocess.ffmpeg import EncodeOptions
from preprocess.packets import jpeg_size
from preprocess.probe import Limit, Probe, Taken, check_length, check_size, inside
from preprocess.sources import Unreadable, opened

_NAME = re.compile(r"([0-9]{1,9})\.jpe?g", re.ASCII | re.IGNORECASE)
_LARGEST_FOLDER = 8 << 30
_PICTURES_BETWEEN_LOOKS = 16


@contextmanager
def joined(
    folder: Path, frame_rate: int, options: EncodeOptions, trim: tuple[float, float] | None, limit: Limit
) -> Iterator[tuple[IO[bytes], Probe, Taken]]:
    """The pictures of a folder (of ``trim``, or all) one after another in a temporary file, and what they are.

    They are the files named by a number, with .jpg or .jpeg; other files are let be. Each must hold one JPEG and
    nothing else. Raises Unreadable if that is not so, if a number is missing, or if they are larger than the options
    allow; and Interrupted.
    """
    names = _numbered(folder, options)
    duration = len(names) / frame_rate
    check_length(options, duration)
    start, end = inside(trim, duration) if trim else (0.0, duration)
    ends = Fraction(end).limit_denominator(1_000_000) * frame_rate
    chosen = names[-(-Fraction(start).limit_denominator(1_000_000) * frame_rate // 1) : -(-ends // 1)]
    size, total = (0, 0), 0
    with tempfile.TemporaryFile() as file:
        for number, name in enumerate(chosen):
            if number % _PICTURES_BETWEEN_LOOKS == 0:
                limit.check()
            content = _content(folder / name, _LARGEST_FOLDER - total)
            try:
                width, height = jpeg_size(content)
            except ValueError as error:
                raise Unreadable(f"no JPEG: {name}", str(error)) from None
            check_size(options, width, height)
            size, total = (size if number else (width, height)), total + len(content)
            file.write(content)
        file.flush()
        about = Probe("mjpeg", len(names), Fraction(frame_rate), duration, *size)
        yield file, about, Taken(len(chosen), 1 / frame_rate, start, end)


def _numbered(folder: Path, options: EncodeOptions) -> list[str]:
    """The names of the pictures, in the order of their numbers, of which none is missing between first and last."""
    names: dict[int, str] = {}
    try:
        for path in folder.iterdir():
            if found := _NAME.fullmatch(path.name):
                if names.setdefault(int(found[1]), path.name) != path.name:
                    raise Unreadable(f"frames twice: {' and '.join(sorted((names[int(found[1])], path.name)))}")
                if len(names) > options.most_frames:
                    raise Unreadable(f"too large: more than {options.most_frames} frames")
    except OSError as error:
        raise Unreadable(f"cannot be opened: {error.strerror}") from None
    if not names:
        raise Unreadable("no frames: the folder holds no file like 00001.jpg")
    numbers = sorted(names)
    for before, number in pairwise(numbers):
        if number != before + 1:
            stem, _, suffix = names[before].rpartition(".")
            raise Unreadable(f"frames missing: {before + 1:0{len(stem)}d}.{suffix}")
    return [names[number] for number in numbers]


def _content(path: Path, most: int) -> bytes:
    try:
        with opened(path) as descriptor, open(descriptor, "rb", closefd=False) as file:
            content = file.read(most + 1)
    except Unreadable as why:
        raise Unreadable(f"{why.reason.partition(':')[0]}: {path.name}") from None
    if len(content) > most:
        raise Unreadable("too large: more than 8 GiB of pictures")
    return content
