"""How packets lie in a member of a shard, for each codec: one after the other, or in an IVF file."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import IO

import numpy as np

from preprocess.ffmpeg import jpeg_packets
from preprocess.index import CODEC_SUFFIX

SUFFIX = {**CODEC_SUFFIX, "vp9": "ivf", "h264": "ivf"}
_IVF_HEADER, _IVF_PACKET_HEADER = 32, 12
_NAL_UNIT = re.compile(rb"\x00\x00\x01(.)", re.DOTALL)
_IDR = 5


def packets_of(codec: str, member: IO[bytes]) -> Iterator[tuple[bytes, int]]:
    """Each packet of a member, and how many packets back its reference lies (0: a keyframe).

    Raises ValueError where the bytes are none of the codec's, or break off.
    """
    return _WALKS[codec](member)


def packet_places(codec: str, sizes: np.ndarray) -> np.ndarray:
    """Where the packets of these sizes begin, counted from the first byte of their member (int64)."""
    begins: np.ndarray = np.cumsum(sizes, dtype=np.int64) - sizes
    if codec == "mjpeg":
        return begins
    return begins + _IVF_HEADER + _IVF_PACKET_HEADER * np.arange(1, len(sizes) + 1)


def _jpegs(member: IO[bytes]) -> Iterator[tuple[bytes, int]]:
    return ((packet, 0) for packet in jpeg_packets(member))


def _vp9(member: IO[bytes]) -> Iterator[tuple[bytes, int]]:
    for packet in _ivf_packets(member):
        # The uncompressed header's show_existing_frame and frame_type, which of profile 3 lie a bit later.
        shifted = packet[0] << 1 if packet[0] & 0x30 == 0x30 else packet[0]
        yield packet, int(bool(shifted & 0x0C))


def _h264(member: IO[bytes]) -> Iterator[tuple[bytes, int]]:
    for packet in _ivf_packets(member):
        kinds = {unit[0] & 0x1F for unit in _NAL_UNIT.findall(packet)}
        yield packet, int(_IDR not in kinds)


def _ivf_packets(member: IO[bytes]) -> Iterator[bytes]:
    header = member.read(_IVF_HEADER)
    if header[:8] != b"DKIF\0\0\x20\0" or len(header) < _IVF_HEADER:
        raise ValueError(f"no IVF: starts with {header[:4].hex()}")
    while header := member.read(_IVF_PACKET_HEADER):
        size = int.from_bytes(header[:4], "little")
        packet = member.read(size)
        if len(header) < _IVF_PACKET_HEADER or len(packet) < size or not size:
            raise ValueError("IVF that breaks off inside a packet")
        yield packet


_WALKS: dict[str, Callable[[IO[bytes]], Iterator[tuple[bytes, int]]]] = {"mjpeg": _jpegs, "vp9": _vp9, "h264": _h264}
