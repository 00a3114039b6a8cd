"""Reads the packets of chosen frames out of memory-mapped shards and checks them."""

from __future__ import annotations

import mmap
import zlib
from functools import lru_cache, partial
from pathlib import Path

import numpy as np

from preprocess.errors import DataError
from preprocess.index import VideoRow, packet_offsets, shard_name

# A map holds a file descriptor, of which a process may commonly have 1024; to map a shard again costs microseconds.
_SHARDS_HELD_OPEN = 256


class PacketReader:
    """Reads packets of one split. Safe to call from several threads."""

    def __init__(self, split_root: Path, codec: str = "mjpeg") -> None:
        self._codec = codec
        self._root = split_root
        self._map = lru_cache(maxsize=_SHARDS_HELD_OPEN)(partial(_open, split_root))

    def read(self, row: VideoRow, frames: np.ndarray) -> list[np.ndarray]:
        """The packets of ``frames``, 0 to ``row.frames`` - 1, in the order asked for: views of the shard, uint8.

        A packet of a keyframe-only codec is a whole picture. Raises DataError, naming shard, key and offset, when
        a shard is missing or cut short, or a packet's bytes are not those that were written.
        """
        shard = self._map(row.shard)
        starts = row.offset + packet_offsets(self._codec, row.packet_bytes)
        read: dict[int, np.ndarray] = {}
        for frame in frames.tolist():
            if frame not in read:
                start = int(starts[frame])
                packet = shard[start : start + int(row.packet_bytes[frame])]
                if zlib.crc32(packet.data) != row.packet_crc32[frame]:
                    where = self._root / shard_name(row.shard)
                    raise DataError(
                        f"{where}: the packet of frame {frame} of '{row.key}' at byte {start} is damaged: "
                        "restore that file, or preprocess again"
                    )
                read[frame] = packet
        return [read[frame] for frame in frames.tolist()]


def _open(split_root: Path, shard: int) -> np.ndarray:
    path = split_root / shard_name(shard)
    try:
        with open(path, "rb") as file:
            return np.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), np.uint8)
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read ({error}): restore that file, or preprocess again") from None
