"""One video file as preprocessing would make it, in memory: no shard is written.

``pipelines`` reads videos that lie in no dataset with it, so that ffmpeg turns files into packets in one way.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from preprocess.encode import Packets, encode
from preprocess.errors import DataError
from preprocess.ffmpeg import EncodeOptions
from preprocess.index import IVF_HEADER, IVF_PACKET_HEADER, VideoRow
from preprocess.sources import Unreadable

# Of what is kept of a video; beyond that it lies in an unnamed file.
_HELD_IN_MEMORY = 64 << 20

# Which packets of a video are wanted, given how many packets back the reference of each lies (packets,) uint8.
Wanted = Callable[[np.ndarray], Iterable[int]]


class UnreadableFile(DataError):
    """A file that is no video, or a damaged one, or too large. The message names the file and the reason."""


@dataclass(frozen=True, eq=False)
class SingleFile:
    """A video as its row in an index would be, at the beginning of a shard, and those of its packets that are wanted.

    ``packets`` are uint8 arrays by the packet's number. The row's key is the file's path.
    """

    row: VideoRow
    packets: dict[int, np.ndarray]


class SingleFileReader:
    """Makes packets of files with the options of a dataset. Safe to call from several threads.

    ``codec`` is that of the packets; ``size`` the width and height of every frame, or None where it depends on the
    file.
    """

    def __init__(self, settings: Mapping[str, Any] | None, *, as_jpegs: bool = False) -> None:
        """``settings`` are the ``options`` of a dataset.json; None: the defaults of preprocessing.

        ``as_jpegs`` puts JPEGs of the best quality in the place of the dataset's own codec, where that cannot be
        decoded.
        """
        options = EncodeOptions() if settings is None else EncodeOptions.from_settings(settings)
        if as_jpegs:
            options = replace(options, codec="mjpeg", gop=1, layers=1, quality=2)
        self._options = options
        self.codec, self.size = options.codec, options.fixed_size

    def read(self, source: Path, wanted: Wanted, stopped: Callable[[], bool] = lambda: False) -> SingleFile:
        """The packets of ``source`` that ``wanted`` asks for; the others are gone as soon as they are made.

        Where the container says another number of frames than there are, the file is gone through twice.

        Raises UnreadableFile where preprocessing would reject the file, and what else ``encode`` raises.
        """
        expected = 0
        # The first time through, the container says how many packets to expect, the second time the first one does.
        for _ in range(2):
            kept = _Kept(wanted, self._options, expected)
            with tempfile.SpooledTemporaryFile(_HELD_IN_MEMORY) as file:
                try:
                    _, made = encode(source, self._options, file, stopped, keep=kept)
                except Unreadable as why:
                    said = f" ({why.ffmpeg_message})" if why.ffmpeg_message else ""
                    raise UnreadableFile(f"{source}: {why.reason}{said}") from None
                expected = len(made.sizes)
                if kept.expected == expected:
                    file.seek(0)
                    return SingleFile(_row(source, made), _cut_apart(file.read(), made, kept, self.codec))
        raise UnreadableFile(f"{source}: changes while it is read")


class _Kept:
    """Says which packets to keep of a video of ``expected`` ones; 0: of as many as it is told first."""

    def __init__(self, wanted: Wanted, options: EncodeOptions, expected: int) -> None:
        self._wanted, self._options, self.expected = wanted, options, expected
        self._numbers: frozenset[int] | None = None

    def __call__(self, number: int, expected: int) -> bool:
        return number in self.numbers(expected)

    def numbers(self, expected: int = 0) -> frozenset[int]:
        if self._numbers is None:
            self.expected = self.expected or expected
            back = np.array([self._options.back_of(number) for number in range(self.expected)], np.uint8)
            self._numbers = frozenset(self._wanted(back))
        return self._numbers


def _cut_apart(content: bytes, made: Packets, kept: _Kept, codec: str) -> dict[int, np.ndarray]:
    """The packets that were kept, each a view of ``content``."""
    at, before = (0, 0) if codec == "mjpeg" else (IVF_HEADER, IVF_PACKET_HEADER)
    packets, whole = {}, np.frombuffer(content, np.uint8)
    for number in sorted(kept.numbers()):
        at += before
        packets[number] = whole[at : at + made.sizes.item(number)]
        at += made.sizes.item(number)
    return packets


def _row(source: Path, made: Packets) -> VideoRow:
    return VideoRow(
        key=str(source),
        source=str(source),
        labels=(),
        shard=0,
        offset=0,
        size=0,
        frames=len(made.sizes),
        width=made.width,
        height=made.height,
        fps_num=made.fps.numerator,
        fps_den=made.fps.denominator,
        start=made.start,
        end=made.end,
        segments=(),
        packet_bytes=made.sizes,
        packet_crc32=made.crc32,
        packet_back=made.back,
    )
