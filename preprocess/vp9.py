"""What the headers of VP9 packets say: which are keyframes, and which packets each refers to.

The decoder keeps eight pictures. The header of a frame says which three of them it may use and which it replaces
(VP9 bitstream specification, 6.2 and 7.2); what its blocks really use lies deep in coded data. So a reference counts
where it is possible, and a stream in temporal layers has its headers name no more than they need: then what decodes
from the needed packets alone is what decodes from all of them, whatever the encoder did.
"""

from __future__ import annotations

from typing import NamedTuple

# By the number of temporal layers: how many packets back the reference of each frame of a period lies. The first is of
# the base layer. In 2 layers all others refer to it; in 3 two of three others do, and the last to the second of these.
_LAYERED_BACK = {2: (8, 1, 2, 3, 4, 5, 6, 7), 3: (4, 1, 2, 1)}
LAYER_PERIODS = {layers: len(back) for layers, back in _LAYERED_BACK.items()}
_HEADER_BYTES = 8
_BITS = 8 * _HEADER_BYTES


class _Header(NamedTuple):
    """A shown frame: ``resilient`` ones take nothing of the packet before them but pictures.

    ``pictures`` are those it may use, ``replaced`` has a bit for each that it replaces, and ``second`` says in which
    bit the number of the second one of ``pictures`` ends.
    """

    keyframe: bool
    resilient: bool
    pictures: tuple[int, int, int]
    replaced: int
    second: int


def _read(packet: memoryview) -> _Header:
    """The header of a packet that must show one new frame and hold no other. Raises ValueError if it does not.

    For several frames in one packet see annex B of the specification.
    """
    if not packet or packet[0] >> 6 != 2:
        raise ValueError("no VP9 frame")
    last = packet[-1]
    if last & 0xE0 == 0xC0:
        index = 2 + ((last & 7) + 1) * ((last >> 3 & 3) + 1)
        if len(packet) >= index and packet[-index] == last:
            raise ValueError("several VP9 frames in one packet")
    bits = int.from_bytes(packet[:_HEADER_BYTES], "big") << 8 * max(0, _HEADER_BYTES - len(packet))
    # After the frame's mark, two bits of the profile; profile 3 has a bit more.
    at = 5 if packet[0] & 0x30 == 0x30 else 4

    def take(count: int) -> int:
        nonlocal at
        at += count
        return bits >> (_BITS - at) & (1 << count) - 1

    exists_already, is_inter, shown, resilient = (take(1) for _ in range(4))
    if exists_already or not shown:
        raise ValueError("a VP9 packet that shows no new frame")
    if not is_inter:
        return _Header(True, bool(resilient), (0, 0, 0), 0xFF, 0)
    if len(packet) < _HEADER_BYTES:
        raise ValueError("a VP9 packet that breaks off in its header")
    if not resilient:
        take(2)
    replaced = take(8)
    pictures = []
    for _ in range(3):
        pictures.append(take(3))
        take(1)
    return _Header(False, bool(resilient), (pictures[0], pictures[1], pictures[2]), replaced, at - 5)


class Vp9References:
    """Tells how far back the references of a stream's packets lie, from their headers, one after the other."""

    def __init__(self) -> None:
        self._number = -1
        self._pictures = [-1] * 8
        self._before: dict[int, int] = {}

    def back(self, packet: memoryview) -> int:
        """How many packets back the reference of the next packet lies; 0 for a keyframe.

        Followed from there on, it leads to every packet that this one may use. A packet that is not error-resilient
        takes probabilities and motion vectors of the packet before it: it counts as its reference. Raises ValueError
        if the packet does not show exactly one new frame, or may use one that is not on the way.
        """
        header = _read(packet)
        number = self._number = self._number + 1
        if header.keyframe:
            self._before = {number: number}
            self._pictures = [number] * 8
            return 0
        used = {self._pictures[picture] for picture in header.pictures}
        nearest = max(used) if header.resilient else number - 1
        if nearest not in self._before:
            raise ValueError(f"packet {number} of VP9 comes before the first keyframe")
        on_the_way = nearest
        for packet_used in sorted(used, reverse=True):
            while on_the_way > packet_used and self._before[on_the_way] < on_the_way:
                on_the_way = self._before[on_the_way]
            if on_the_way != packet_used:
                raise ValueError(f"packet {number} of VP9 may refer to packet {packet_used}, beside packet {nearest}")
        self._before[number] = nearest
        self._pictures = [
            number if header.replaced >> picture & 1 else held for picture, held in enumerate(self._pictures)
        ]
        return number - nearest


def layered_back(number: int, layers: int) -> int:
    """How many packets back the reference of a frame in 2 or 3 layers lies, ``number`` frames after its keyframe."""
    if number == 0:
        return 0
    return _LAYERED_BACK[layers][number % LAYER_PERIODS[layers]]


def with_layered_header(packet: memoryview, number: int) -> bytes:
    """A packet of a stream in 3 layers, its header naming only pictures of packets that it needs.

    libvpx is told that no frame of the first three of a period uses the second of its three pictures (golden, the
    last frame of the middle layer), but lists it all the same: the first (the last frame of the base layer) is named
    in its place, which changes no pixel. The third is the keyframe's. ``number`` counts from the keyframe. Raises
    ValueError as ``Vp9References.back``.
    """
    header = _read(packet)
    content = bytes(packet)
    if header.keyframe or number % LAYER_PERIODS[3] == LAYER_PERIODS[3] - 1:
        return content
    head = int.from_bytes(content[:_HEADER_BYTES], "big")
    place = _BITS - header.second
    head = head & ~(7 << place) | header.pictures[0] << place
    return head.to_bytes(_HEADER_BYTES, "big") + content[_HEADER_BYTES:]
