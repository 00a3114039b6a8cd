"""JPEG packets: whether they have the form that decoders take, and several pictures as one.

(ITU-T T.81, "JPEG", sections B.2 and E.1.4.)
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

_START_OF_FRAME, _START_OF_SCAN, _RESTART_INTERVAL = 0xC0, 0xDA, 0xDD
# Tables, restart interval, comment, application data.
_SEGMENTS = frozenset((_START_OF_FRAME, 0xDB, 0xC4, _RESTART_INTERVAL, 0xFE, *range(0xE0, 0xF0)))
# A scan begins within these: the tables of a picture in colour take at most 1,200.
_LONGEST_HEAD = 2048
_END_OF_IMAGE = b"\xff\xd9"
# Pixels of a block that is coded as one, on a side: chroma is at half width and height.
_BLOCK = 16
# Of a picture that the JPEG engine of an H100 was seen to decode; it may well take more.
_MOST_ROWS = 4096
# Fewer leave engines of a GPU without work, of which there are eight on an H100.
_LEAST_PIECES = 32
# A restart marker has a number from 0 to 7, in turn; an interval is of at most so many blocks.
_RESTARTS = [np.array([0xFF, 0xD0 + number], np.uint8) for number in range(8)]
_LONGEST_INTERVAL = 0xFFFF


class JpegHeads:
    """Tells the JPEGs of the preprocessor, up to their scan, from what is none. Safe to call from several threads."""

    def __init__(self) -> None:
        # The last one of each size: where all have the same tables, as the preprocessor writes them, none is read.
        self._known: dict[tuple[int, int], bytes] = {}

    def head(self, packet: np.ndarray, width: int, height: int) -> bytes:
        """All before the scan of a packet, (bytes,) uint8; none if it has not the form of a JPEG of this size.

        That is baseline and in colour. DALI 2.4 ends the whole process, more often than not, where one picture of a
        batch has no such form.
        """
        if packet[-2:].tobytes() != _END_OF_IMAGE:
            return b""
        known = self._known.get((width, height))
        if known and packet[: len(known)].tobytes() == known:
            return known
        head = _read_head(packet[:_LONGEST_HEAD].tobytes(), width, height)
        if head:
            self._known[width, height] = head
        return head


def _read_head(begin: bytes, width: int, height: int) -> bytes:
    if not begin.startswith(b"\xff\xd8"):
        return b""
    at, frames = 2, 0
    try:
        while begin[at] == 0xFF and (marker := begin[at + 1]) in _SEGMENTS:
            if marker == _START_OF_FRAME:
                if begin[at + 2 : at + 19] not in _frames(width, height):
                    return b""
                frames += 1
            at += 2 + (begin[at + 2] << 8 | begin[at + 3])
        if begin[at] != 0xFF or begin[at + 1] != _START_OF_SCAN or frames != 1:
            return b""
        return begin[: at + 2 + (begin[at + 2] << 8 | begin[at + 3])]
    except IndexError:
        return b""


@lru_cache
def _frames(width: int, height: int) -> tuple[bytes, ...]:
    """What a JPEG says of its frame: the length of that, 8 bits, size, and three components.

    Each has its number, its sampling factors and its quantisation table. As the preprocessor writes them: chroma at
    half width and height.
    """
    size = height.to_bytes(2, "big") + width.to_bytes(2, "big")
    chroma = b"\x02\x11%c\x03\x11%c"
    return tuple(b"\x00\x11\x08" + size + b"\x03\x01\x22\x00" + chroma % (table, table) for table in (0, 1))


def coded_rows(height: int) -> int:
    """How many rows of pixels a JPEG of ``height`` rows codes: whole blocks."""
    return -(-height // _BLOCK) * _BLOCK


def pictures_in_one(videos: int, frames: int, size: tuple[int, int]) -> int:
    """How many pictures of a video to join in one, of a batch with ``frames`` of each: 1 if it does not pay.

    They divide the frames. ``size`` is the largest width and height of a picture.
    """
    width, rows = size[0], coded_rows(size[1])
    if coded_rows(width) * rows // _BLOCK**2 > _LONGEST_INTERVAL:
        return 1
    fitting = (k for k in range(frames, 0, -1) if frames % k == 0)
    return next((k for k in fitting if k * rows <= _MOST_ROWS and videos * frames // k >= _LEAST_PIECES), 1)


def can_be_joined(head: bytes) -> bool:
    """Whether pictures that all have this head can be joined: it is one, and says of no restart interval."""
    return bool(head) and bytes((0xFF, _RESTART_INTERVAL)) not in head


def joined_pictures(head: bytes, packets: Sequence[np.ndarray], width: int, height: int) -> np.ndarray:
    """Pictures with one ``head``, one below the other, as one JPEG: (bytes,) uint8.

    A picture's scan becomes a restart interval, before which a decoder forgets what it knows. So nothing is decoded or
    coded here, and what comes out has the pixels of the single pictures, each of ``coded_rows(height)`` rows. (A
    decoder that smooths chroma over the edges of blocks does so over those of pictures too. GPUs' do not.)
    """
    rows = coded_rows(height)
    size = height.to_bytes(2, "big") + width.to_bytes(2, "big")
    frame = head.index(b"\xff\xc0\x00\x11\x08" + size)
    scan = head.rindex(b"\xff\xda")
    blocks = coded_rows(width) * rows // _BLOCK**2
    parts = [
        head[: frame + 5] + (rows * len(packets)).to_bytes(2, "big") + head[frame + 7 : scan],
        b"\xff\xdd\x00\x04" + blocks.to_bytes(2, "big") + head[scan:],
    ]
    arrays = [np.frombuffer(b"".join(parts), np.uint8)]
    for number, packet in enumerate(packets):
        arrays += (packet[len(head) : -2], _RESTARTS[number % 8])
    arrays[-1] = np.frombuffer(_END_OF_IMAGE, np.uint8)
    return np.concatenate(arrays)
