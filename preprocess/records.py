"""What every dataset reader yields: one record per video, and the rules for keys and splits that all share."""

from __future__ import annotations

import hashlib
import os
import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

_UNSAFE = re.compile(r"[^\w-]")
_HASHED = re.compile(r"-[0-9a-f]{16}$")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_LONGEST_PART = 80


@dataclass(frozen=True, slots=True)
class VideoRecord:
    """A video as its dataset lists it. Times are in seconds of ``source``.

    ``source`` is a file or, with a ``frame_rate`` (frames per second) above 0, a folder of pictures. ``split`` is
    empty where the dataset has none and one is drawn. ``segments`` are (label, start, end) of what happens in an
    untrimmed video; of a video with a ``trim`` only the time from its start to its end is taken. ``problem`` says why
    a video cannot be taken (of a kind up to a colon, as in ``missing: abc.mp4``); its ``source`` may not exist.
    """

    key: str
    source: Path
    labels: tuple[int, ...]
    split: str
    segments: tuple[tuple[int, float, float], ...] = ()
    trim: tuple[float, float] | None = None
    frame_rate: int = 0
    problem: str = ""


@dataclass(frozen=True)
class Listing:
    """A dataset as listed, before any video was read.

    ``records`` can be gone through once, and may be read from the annotations meanwhile: its order depends on them
    alone. ``options`` are what the reader was asked for, by name. ``notes`` are lines a person should see; they are
    complete when ``records`` is exhausted.
    ``takes_every_file`` says that whatever lies below ``root`` counts as a video.
    """

    kind: str
    root: Path
    classes: tuple[str, ...]
    records: Iterable[VideoRecord]
    options: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    takes_every_file: bool = False


def printable(path: Path | str) -> str:
    """A path as one line of text: bytes that are no UTF-8 and control characters come out as ``\\xNN``, ``\\n``."""
    text = os.fspath(path)
    if text.isascii() and text.isprintable():
        return text
    text = os.fsencode(text).decode("utf-8", "backslashreplace")
    return _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def safe_key(*parts: str) -> str:
    """A key from names that may hold anything.

    Each part keeps letters of any script, digits, ``_`` and ``-``. A part that had to be changed or cut, or that
    looks as if it had been, ends in 16 hexadecimal digits of a hash of what it was: two names do not fall on one
    key. Dots go too: WebDataset splits a member's name at the first one.
    """
    kept = []
    for part in parts:
        clean = _UNSAFE.sub("_", printable(part))[:_LONGEST_PART] or "_"
        if clean != part or _HASHED.search(clean):
            clean += "-" + hashlib.sha256(os.fsencode(part)).hexdigest()[:16]
        kept.append(clean)
    return "/".join(kept)


def draw_split(records: Iterable[VideoRecord], val_fraction: float) -> list[VideoRecord]:
    """Give each record a split, ``train`` or ``val``.

    Of each class the videos whose hashed keys come first go to ``val``. So neither the order nor the other classes
    matter, and one video more in a class moves at most one of the others. A class of two or more videos has at
    least one in each split if ``val_fraction`` is above 0.
    """
    by_label: dict[tuple[int, ...], list[VideoRecord]] = defaultdict(list)
    for record in records:
        by_label[record.labels].append(record)
    drawn = []
    for members in by_label.values():
        members.sort(key=lambda r: hashlib.sha256(r.key.encode()).digest())
        held_out = round(len(members) * val_fraction)
        if val_fraction > 0 and len(members) > 1:
            held_out = min(max(held_out, 1), len(members) - 1)
        drawn += [replace(r, split="val") for r in members[:held_out]]
        drawn += [replace(r, split="train") for r in members[held_out:]]
    return sorted(drawn, key=lambda r: r.key)
