"""Cuts what an encoder writes into packets, and tells from a packet's bytes what it is."""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterator
from typing import IO

from preprocess.vp9 import Vp9References

_READ = 1 << 18
_IVF_HEADER = struct.Struct("<4sHH4sHHIIII")
_IVF_PACKET = struct.Struct("<IQ")
_ACCESS_UNIT = b"\x00\x00\x00\x01\x09"
# The header of a coded slice and the byte after it, which begins with a 1 in a picture's first slice alone.
_FIRST_SLICE = re.compile(rb"\x00\x00\x01([\x01\x21\x41\x61\x05\x25\x45\x65])([\x80-\xff])")
_SLICE_IDR, _SLICE_B = 5, 1
# Inside a scan of a JPEG 0xFF is followed by 0x00 or a restart marker; one more 0xFF is padding.
_AFTER_SCAN = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")


class _Held:
    """What was read of a stream and not yet cut off: ``data[start:]``."""

    def __init__(self, stream: IO[bytes]) -> None:
        self.data = b""
        self.start = 0
        self._stream = stream

    def more(self) -> bool:
        """Read on; False at the stream's end."""
        rest = self.data[self.start :]
        # As much again as is held, so that a large packet is not copied once for each block of it.
        block = self._stream.read(max(_READ, len(rest)))
        self.data, self.start = rest + block, 0
        return bool(block)

    def has(self, count: int) -> bool:
        """Whether ``count`` bytes are held, or could be read."""
        while len(self.data) - self.start < count:
            if not self.more():
                return False
        return True

    def take(self, count: int) -> memoryview:
        """Cut off ``count`` bytes."""
        end = self.start + count
        packet = memoryview(self.data)[self.start : end]
        self.start = end
        return packet


def jpeg_packets(stream: IO[bytes]) -> Iterator[memoryview]:
    """Cut concatenated JPEGs (ITU-T T.81) apart.

    The segments before a scan are skipped by their lengths, for a table may hold the bytes of a marker; inside a
    scan 0xFF is always followed by 0x00 or a restart marker, so the next FF D9 ends the picture. A picture that
    the stream breaks off in is left out. Raises ValueError where the bytes are no JPEG.
    """
    held = _Held(stream)
    while held.has(4):
        if not held.data.startswith(b"\xff\xd8", held.start):
            raise ValueError(f"no JPEG: starts with {held.data[held.start : held.start + 2].hex()}")
        at, marker = 2, 0
        while marker != 0xDA:
            if not held.has(at + 4):
                return
            start, marker, high, low = held.data[held.start + at : held.start + at + 4]
            if start != 0xFF:
                raise ValueError(f"no JPEG: {start:02x}{marker:02x} where a marker should be")
            at += 2 + (high << 8 | low)
        while (end := held.data.find(b"\xff\xd9", held.start + at)) < 0:
            at = max(at, len(held.data) - held.start - 1)
            if not held.more():
                return
        yield held.take(end + 2 - held.start)


def ivf_packets(stream: IO[bytes]) -> Iterator[memoryview]:
    """The packets of an IVF file, without its headers; one that the stream breaks off in is left out.

    Raises ValueError where the bytes are no IVF.
    """
    held = _Held(stream)
    if not held.has(_IVF_HEADER.size):
        if held.data:
            raise ValueError(f"no IVF: starts with {held.data[:4].hex()}")
        return
    mark, _, length, *_ = _IVF_HEADER.unpack(held.take(_IVF_HEADER.size))
    if mark != b"DKIF" or length != _IVF_HEADER.size:
        raise ValueError(f"no IVF: starts with {mark.hex()}")
    while held.has(_IVF_PACKET.size):
        size, _ = _IVF_PACKET.unpack_from(held.data, held.start)
        if not held.has(_IVF_PACKET.size + size):
            return
        held.take(_IVF_PACKET.size)
        yield held.take(size)


def h264_packets(stream: IO[bytes]) -> Iterator[memoryview]:
    """Cut an H.264 byte stream (ITU-T H.264, Annex B) at its access unit delimiters.

    The bytes of a start code occur nowhere else, so the next delimiter ends a packet. Nothing says whether the last
    packet is whole. Raises ValueError where the bytes do not begin with a delimiter.
    """
    held = _Held(stream)
    while held.has(1):
        held.has(len(_ACCESS_UNIT))
        if not held.data.startswith(_ACCESS_UNIT, held.start):
            raise ValueError(f"no H.264 access unit: starts with {held.data[held.start : held.start + 5].hex()}")
        at = 1
        while (end := held.data.find(_ACCESS_UNIT, held.start + at)) < 0:
            at = max(at, len(held.data) - held.start - len(_ACCESS_UNIT) + 1)
            if not held.more():
                end = len(held.data)
                break
        yield held.take(end - held.start)


def is_h264_keyframe(packet: memoryview) -> bool:
    """Whether an access unit, which must hold one picture without B slices, is an IDR picture.

    Raises ValueError if it is no such access unit. See ITU-T H.264, 7.3.1 and 7.3.3.
    """
    slices = _FIRST_SLICE.findall(packet)
    if len(slices) != 1:
        raise ValueError(f"{len(slices)} pictures in one H.264 access unit")
    unit, begins = slices[0][0][0], slices[0][1][0]
    # The type is an Exp-Golomb code behind the first bit; types 5 to 9 are 0 to 4, for the whole picture.
    code = begins & 0x7F
    zeros = 7 - code.bit_length()
    if zeros <= 3 and ((code >> (6 - 2 * zeros)) - 1) % 5 == _SLICE_B:
        raise ValueError("a B slice in an H.264 access unit")
    return bool(unit & 0x1F == _SLICE_IDR)


def reference_finder(codec: str) -> Callable[[memoryview], int]:
    """A function that gets the packets of one video in order, and says how many packets back the reference of each is.

    It says 0 for a keyframe, and raises ValueError for a packet that is none of the codec's.
    """
    if codec == "mjpeg":
        return lambda packet: 0
    if codec == "vp9":
        return Vp9References().back
    return lambda packet: int(not is_h264_keyframe(packet))


def packets_of(codec: str, member: IO[bytes]) -> Iterator[tuple[memoryview, int]]:
    """Each packet of a shard's member, and how many packets back its reference lies (0: a keyframe).

    A packet that breaks off is left out. Raises ValueError where the bytes are none of the codec's.
    """
    back = reference_finder(codec)
    cut_apart = jpeg_packets if codec == "mjpeg" else ivf_packets
    return ((packet, back(packet)) for packet in cut_apart(member))


def ivf_header(fourcc: bytes, width: int, height: int, rate: tuple[int, int], packets: int) -> bytes:
    """The 32 bytes that an IVF file begins with; ``rate`` is in packets per second, as a fraction."""
    return _IVF_HEADER.pack(b"DKIF", 0, _IVF_HEADER.size, fourcc, width, height, *rate, packets, 0)


def ivf_packet_header(size: int, number: int) -> bytes:
    """The 12 bytes that lie before each packet of an IVF file."""
    return _IVF_PACKET.pack(size, number)


def jpeg_size(content: bytes) -> tuple[int, int]:
    """Width and height of a picture, if the bytes are one JPEG, of any number of scans, and nothing else.

    Raises ValueError if they are not.
    """
    if content[:2] != b"\xff\xd8":
        raise ValueError(f"no JPEG: starts with {content[:2].hex()}")
    at, size = 2, (0, 0)
    while True:
        if len(content) < at + 2 or content[at] != 0xFF:
            raise ValueError(f"no JPEG: {content[at : at + 2].hex() or 'the end'} where a marker should be")
        marker = content[at + 1]
        if marker == 0xD9:
            break
        if marker == 0xFF:
            at += 1
            continue
        length = int.from_bytes(content[at + 2 : at + 4], "big")
        # A frame's header; C4, C8 and CC are among its numbers, but no headers.
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            if size != (0, 0):
                raise ValueError("no JPEG: it has two frame headers")
            size = (int.from_bytes(content[at + 7 : at + 9], "big"), int.from_bytes(content[at + 5 : at + 7], "big"))
        at += 2 + length
        if marker == 0xDA:
            found = _AFTER_SCAN.search(content, at)
            if not found:
                raise ValueError("no JPEG: breaks off inside a scan")
            at = found.start()
    if at + 2 != len(content):
        raise ValueError(f"no JPEG: {len(content) - at - 2} bytes behind its end")
    if 0 in size:
        raise ValueError("no JPEG: it has no size")
    return size
