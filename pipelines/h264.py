"""H.264 packets: whether they have the form that the preprocessor writes.

(Rec. ITU-T H.264: annex B for units in a byte stream, 7.3.2.1.1 for what a sequence says of its pictures.)
"""

from __future__ import annotations

import re
from functools import lru_cache

import numpy as np

_SLICE, _SLICE_IDR, _SEQUENCE = 1, 5, 7
# Each packet begins with a delimiter. A unit begins behind a start code, whose bytes occur nowhere inside one.
_DELIMITER, _START = b"\x00\x00\x00\x01\x09", b"\x00\x00\x01"
_UNIT = re.compile(_START + b"(.)", re.DOTALL)
# A slice begins within these. Before the first one x264 says its settings, and others their subtitles.
_LONGEST_HEAD = 4096
# Profiles that say how chroma is sampled and how deep.
_HIGH_PROFILES = frozenset((44, 83, 86, 100, 110, 118, 122, 128, 134, 135, 138, 139, 244))
_BLOCK = 16


def is_h264(packet: np.ndarray, width: int, height: int, keyframe: bool) -> bool:
    """Whether a packet, (bytes,) uint8, begins as a keyframe of this size or as a frame that is none.

    A decoder on a GPU is told nothing of a stream beforehand: what it makes of another size, or of a stream that
    begins with no keyframe, is not to be relied on.
    """
    head = packet[:_LONGEST_HEAD].tobytes()
    if not head.startswith(_DELIMITER):
        return False
    size: tuple[int, int] | None = None
    for unit in _UNIT.finditer(head):
        kind = unit[1][0] & 0x9F
        if kind == _SEQUENCE:
            size = _size(head[unit.end() : head.find(_START, unit.end())])
        elif kind in (_SLICE, _SLICE_IDR):
            return (kind == _SLICE_IDR, size) == (keyframe, (width, height) if keyframe else None)
    return False


@lru_cache
def _size(sequence: bytes) -> tuple[int, int] | None:
    """Width and height of the pictures of a sequence that is progressive, lossy and of 4:2:0 in 8 bits, else None."""
    content = sequence.replace(b"\x00\x00\x03", b"\x00\x00")
    bits = "".join(f"{byte:08b}" for byte in content)
    at = 24

    def flag() -> bool:
        nonlocal at
        at += 1
        return bits[at - 1] == "1"

    def number() -> int:
        """An Exp-Golomb code (9.1)."""
        nonlocal at
        first = bits.index("1", at)
        begin, at = first, 2 * first - at + 1
        return int(bits[begin:at], 2) - 1

    try:
        number()
        # 4:2:0, 8 bits of luma and of chroma, not without loss, no scaling matrices.
        if content[0] in _HIGH_PROFILES and (number(), number(), number(), flag(), flag()) != (1, 0, 0, False, False):
            return None
        number()
        order = number()
        if order == 0:
            number()
        elif order != 2:
            return None
        number()
        flag()
        width, height = (number() + 1) * _BLOCK, (number() + 1) * _BLOCK
        if not flag():
            return None
        flag()
        left, right, top, bottom = (number() for _ in range(4)) if flag() else (0, 0, 0, 0)
    except (IndexError, ValueError):
        return None
    return width - 2 * (left + right), height - 2 * (top + bottom)
