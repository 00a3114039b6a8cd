"""The packets that chosen frames need, read and checked, as what a decoder takes."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from isal import isal_zlib

from pipelines.h264 import is_h264
from pipelines.jpeg import JpegHeads
from pipelines.shard_store import ShardStore
from pipelines.vp9 import is_vp9
from preprocess.errors import DataError
from preprocess.index import IVF_HEADER, IVF_PACKET_HEADER, VideoRow, packet_offsets

_IVF_HEADER = struct.Struct("<4sHH4sHHIIII")
_FOURCC = {"vp9": b"VP90", "h264": b"H264"}
# What packets of a codec are called, and whether one has its form.
_FORM = {"vp9": ("VP9", is_vp9), "h264": ("H.264", is_h264)}


class Damaged(DataError):
    """Packets of a video are not what was written, or do not decode. The message is one line: shard, key, offset."""


@dataclass(frozen=True, eq=False)
class VideoPackets:
    """The packets that some frames of a video need.

    ``packets`` are uint8 arrays in display order, views of the shard. ``positions`` (ascending, distinct, int64) are
    those of the wanted frames among them; ``take`` (frames,) int64 says for each frame asked for which of
    ``positions`` it is, so a frame that is asked for twice is decoded once. ``head`` is what all packets have before
    their scan, if they are JPEGs and it is the same in all.
    """

    row: VideoRow
    packets: list[np.ndarray]
    positions: np.ndarray
    take: np.ndarray
    head: bytes = b""


def needed_packets(packet_back: np.ndarray, frames: Iterable[int]) -> list[int]:
    """The packets that ``frames`` need to be decoded: they, and what they refer to; ascending, distinct.

    ``packet_back`` (packets,) says how many packets back the reference of each lies, 0 for a keyframe. Each reference
    needs its own in turn.
    """
    needed: set[int] = set()
    for frame in frames:
        while frame not in needed:
            needed.add(frame)
            frame -= int(packet_back[frame])
    return sorted(needed)


@dataclass(frozen=True, eq=False)
class Wanted:
    """The packets that frames of a video need: their numbers, and where each lies, as (start, size).

    ``asked`` are the frames, ``distinct`` the same in order, each once.
    """

    row: VideoRow
    asked: list[int]
    distinct: list[int]
    needed: list[int]
    where: list[tuple[int, int]]


class PacketReader:
    """Reads the packets of one split's videos. Safe to call from several threads."""

    def __init__(self, store: ShardStore, codec: str) -> None:
        self._store, self._codec, self._jpegs = store, codec, JpegHeads()

    def announce(self, row: VideoRow, frames: np.ndarray) -> Wanted:
        """Begin to fetch what ``frames`` (int64, each 0 to ``row.frames`` - 1, any order) need.

        Raises DataError when the shard cannot be read.
        """
        # With lists: of so few numbers NumPy's own functions cost more.
        asked = frames.tolist()
        distinct = sorted(set(asked))
        needed = distinct if self._codec == "mjpeg" else needed_packets(row.packet_back, distinct)
        at = np.array(needed)
        starts = row.offset + packet_offsets(self._codec, row.packet_bytes)[at]
        where = list(zip(starts.tolist(), row.packet_bytes[at].tolist(), strict=True))
        for start, size in where:
            self._store.expect(row.shard, start, size)
        return Wanted(row, asked, distinct, needed, where)

    def read(self, wanted: Wanted) -> VideoPackets:
        """The packets that were announced.

        Raises Damaged when a packet's bytes are not those that were written, or have not the form of their codec and
        the row's size; DataError when a shard cannot be read.
        """
        row, needed = wanted.row, wanted.needed
        packets, heads = [], set()
        crc32s = row.packet_crc32[needed].tolist()
        for frame, (start, size), crc32 in zip(needed, wanted.where, crc32s, strict=True):
            packet = self._store.read(row.shard, start, size)
            if len(packet) != size or isal_zlib.crc32(packet) != crc32:
                raise self.damaged(row, frame, start, "is damaged")
            if self._codec == "mjpeg":
                heads.add(self._jpegs.head(packet, row.width, row.height))
                if b"" in heads:
                    raise self.damaged(row, frame, start, f"is no JPEG of {row.width}x{row.height}")
            else:
                called, has_form = _FORM[self._codec]
                if not has_form(packet, row.width, row.height, not row.packet_back[frame]):
                    raise self.damaged(row, frame, start, f"is no {called} of {row.width}x{row.height}")
            packets.append(packet)
        distinct = wanted.distinct
        place = {frame: i for i, frame in enumerate(distinct)}
        positions = np.arange(len(needed)) if needed is distinct else np.searchsorted(needed, distinct)
        take = np.array([place[frame] for frame in wanted.asked])
        return VideoPackets(row, packets, positions, take, heads.pop() if len(heads) == 1 else b"")

    def damaged(self, row: VideoRow, frame: int, start: int, what: str) -> Damaged:
        """What to say of a packet of ``frame`` that begins at byte ``start`` of its shard."""
        return Damaged(
            f"{self._store.name(row.shard)}: the packet of frame {frame} of '{row.key}' at byte {start} {what}"
        )

    def undecodable(self, row: VideoRow, reason: str) -> Damaged:
        """What to say of a video whose packets are as they were written, but do not decode."""
        return Damaged(f"{self._store.name(row.shard)}: '{row.key}' at byte {row.offset} does not decode: {reason}")


def clip_stream(codec: str, clips: list[VideoPackets]) -> tuple[np.ndarray, np.ndarray]:
    """Clips of one size, one behind the other, as one small video in IVF: (bytes,) uint8.

    Each clip begins with a keyframe. Also returns the positions of all the clips' wanted frames in it, ascending,
    (frames,) int32.
    """
    row, count = clips[0].row, sum(len(clip.packets) for clip in clips)
    rate = (max(row.fps_num, 1), max(row.fps_den, 1))
    header = _IVF_HEADER.pack(b"DKIF", 0, IVF_HEADER, _FOURCC[codec], row.width, row.height, *rate, count, 0)
    parts = [np.frombuffer(header, np.uint8)]
    positions, first = [], 0
    for clip in clips:
        positions.append(clip.positions + first)
        for number, packet in enumerate(clip.packets, first):
            # The size of the packet, and when it is shown.
            parts.append(np.frombuffer(struct.pack("<IQ", len(packet), number), np.uint8))
            parts.append(packet)
        first += len(clip.packets)
    return np.concatenate(parts), np.concatenate(positions).astype(np.int32)


assert _IVF_HEADER.size == IVF_HEADER and struct.calcsize("<IQ") == IVF_PACKET_HEADER
