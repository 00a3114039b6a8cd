"""The packets of a member of a shard, read back."""

from __future__ import annotations

from collections.abc import Iterator
from typing import IO

from preprocess.index import CODEC_SUFFIX as SUFFIX
from preprocess.index import packet_offsets as packet_places
from preprocess.packets import is_h264_keyframe, is_vp9_keyframe, ivf_packets, jpeg_packets

__all__ = ["SUFFIX", "packet_places", "packets_of"]


def packets_of(codec: str, member: IO[bytes]) -> Iterator[tuple[memoryview, int]]:
    """Each packet of a member, and how many packets back its reference lies (0: a keyframe).

    A packet that breaks off is left out. Raises ValueError where the bytes are none of the codec's.
    """
    if codec == "mjpeg":
        return ((packet, 0) for packet in jpeg_packets(member))
    is_keyframe = is_vp9_keyframe if codec == "vp9" else is_h264_keyframe
    return ((packet, int(not is_keyframe(packet))) for packet in ivf_packets(member))
