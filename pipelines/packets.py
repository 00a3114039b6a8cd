"""The packets that chosen frames need, read and checked, as what a decoder takes."""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass

import numpy as np

from pipelines.shard_store import ShardStore
from preprocess.errors import DataError
from preprocess.index import IVF_HEADER, IVF_PACKET_HEADER, VideoRow, packet_offsets

_IVF_HEADER = struct.Struct("<4sHH4sHHIIII")
_FOURCC = {"vp9": b"VP90", "h264": b"H264"}
_START_OF_FRAME, _START_OF_SCAN = 0xC0, 0xDA
# Chroma at half width and height, at half width, and at full size.
_SAMPLING_FACTORS = (b"\x22\x11\x11", b"\x21\x11\x11", b"\x11\x11\x11")
# Where a JPEG of three Huffman tables of each kind and long comments still has its scan.
_LONGEST_JPEG_HEADER = 4096


class Damaged(DataError):
    """Packets of a video are not what was written, or do not decode. The message is one line: shard, key, offset."""


@dataclass(frozen=True, eq=False)
class VideoPackets:
    """The packets that some frames of a video need.

    ``packets`` are uint8 arrays in display order, views of the shard. ``positions`` (ascending, distinct, int64) are
    those of the wanted frames among them; ``take`` (frames,) int64 says for each frame asked for which of
    ``positions`` it is, so a frame that is asked for twice is decoded once.
    """

    row: VideoRow
    packets: list[np.ndarray]
    positions: np.ndarray
    take: np.ndarray


def needed_packets(packet_back: np.ndarray, frames: np.ndarray) -> np.ndarray:
    """The packets that ``frames`` need to be decoded: they, and what they refer to; ascending, distinct, int64.

    ``packet_back`` (packets,) says how many packets back the reference of each lies, 0 for a keyframe. Each reference
    needs its own in turn.
    """
    needed: set[int] = set()
    for frame in frames.tolist():
        while frame not in needed:
            needed.add(frame)
            frame -= int(packet_back[frame])
    return np.array(sorted(needed), np.int64)


class PacketReader:
    """Reads the packets of one split's videos. Safe to call from several threads."""

    def __init__(self, store: ShardStore, codec: str) -> None:
        self._store, self._codec = store, codec

    def read(self, row: VideoRow, frames: np.ndarray) -> VideoPackets:
        """What ``frames`` (int64, each 0 to ``row.frames`` - 1, any order) need.

        Raises Damaged when a packet's bytes are not those that were written, or are no JPEG of the row's size;
        DataError when a shard cannot be read.
        """
        distinct, take = np.unique(frames, return_inverse=True)
        needed = distinct if self._codec == "mjpeg" else needed_packets(row.packet_back, distinct)
        starts = row.offset + packet_offsets(self._codec, row.packet_bytes)
        packets = []
        for frame, start, size, crc32 in zip(
            needed.tolist(),
            starts[needed].tolist(),
            row.packet_bytes[needed].tolist(),
            row.packet_crc32[needed].tolist(),
            strict=True,
        ):
            packet = self._store.read(row.shard, start, size)
            if len(packet) != size or zlib.crc32(packet.data) != crc32:
                raise self.damaged(row, frame, start, "is damaged")
            if self._codec == "mjpeg" and not _is_jpeg(packet, row.width, row.height):
                raise self.damaged(row, frame, start, f"is no JPEG of {row.width}x{row.height}")
            packets.append(packet)
        return VideoPackets(row, packets, np.searchsorted(needed, distinct), take.reshape(-1))

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


def _is_jpeg(packet: np.ndarray, width: int, height: int) -> bool:
    """Whether a packet has the form of a JPEG of this size, baseline and in colour, up to its scan.

    DALI 2.4 ends the whole process, more often than not, where one picture of a batch has none. This costs 3 µs.
    """
    if len(packet) < 4 or packet[-2] != 0xFF or packet[-1] != 0xD9:
        return False
    head = packet[:_LONGEST_JPEG_HEADER].tobytes()
    if head[:2] != b"\xff\xd8":
        return False
    at, has_frame = 2, False
    while at + 20 <= len(head) and head[at] == 0xFF:
        marker = head[at + 1]
        if marker == _START_OF_SCAN:
            return has_frame
        if marker == _START_OF_FRAME:
            size = int.from_bytes(head[at + 7 : at + 9], "big"), int.from_bytes(head[at + 5 : at + 7], "big")
            components = head[at + 11 : at + 19 : 3]
            if head[at + 4] != 8 or head[at + 9] != 3 or size != (width, height) or components not in _SAMPLING_FACTORS:
                return False
            has_frame = True
        elif marker not in (0xDB, 0xC4, 0xDD, 0xFE) and not 0xE0 <= marker <= 0xEF:
            return False
        at += 2 + int.from_bytes(head[at + 2 : at + 4], "big")
    return False


assert _IVF_HEADER.size == IVF_HEADER and struct.calcsize("<IQ") == IVF_PACKET_HEADER
