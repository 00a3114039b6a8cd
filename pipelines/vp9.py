"""VP9 packets: whether they have the form that the preprocessor writes."""

from __future__ import annotations

import numpy as np


def is_vp9(packet: np.ndarray, width: int, height: int, keyframe: bool) -> bool:
    """Whether a packet begins as a VP9 frame of profile 0, a keyframe with this size or a frame that is none.

    (VP9 bitstream specification, section 6.2.) DALI 2.4 writes past the end of its memory, and the process ends, where
    a stream changes its size.
    """
    head = packet[:9].tobytes()
    # The marker 10, two bits of the profile, whether a frame is shown again, and whether this is no keyframe.
    if not head or head[0] & 0b11111100 != (0b10000000 if keyframe else 0b10000100):
        return False
    if not keyframe:
        return True
    # The sync code, four bits of colour, and the size.
    size = (width - 1) << 16 | (height - 1)
    return head[1:4] == b"\x49\x83\x42" and int.from_bytes(head[4:], "big") >> 4 & 0xFFFFFFFF == size
