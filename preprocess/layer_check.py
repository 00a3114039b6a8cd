"""Does this ffmpeg write temporal layers as it is asked to? Tried on a few frames made for it."""

from __future__ import annotations

import subprocess
from fractions import Fraction
from functools import lru_cache
from io import BytesIO

import av
import numpy as np

from preprocess.errors import UsageError
from preprocess.ffmpeg import EncodeOptions, command, executable, messages
from preprocess.packets import ivf_packets
from preprocess.vp9 import Vp9References, with_layered_header

_SIDE, _FRAMES, _PICTURES = 64, 32, 3


@lru_cache(maxsize=2)
def see_that_layers_are_kept(layers: int) -> None:
    """Encode a few frames, and see that a frame of 2 or 3 layers uses no picture that its place does not allow.

    Of 2 layers the headers say so. Those of 3 name no other in what is written (``with_layered_header``); if the
    encoder had used one, frames would decode to wrong pixels. The frames are chosen to tempt it: noise, the same again
    each few frames, so that the best reference mostly is one that it must not use. Raises UsageError if it does not
    keep to the layers.
    """
    random = np.random.default_rng(0)
    pictures = random.integers(0, 256, (_PICTURES, _SIDE * _SIDE * 3 // 2), np.uint8)
    shown = [b"FRAME\n" + pictures[number].tobytes() for number in random.integers(0, _PICTURES, _FRAMES)]
    source = b"YUV4MPEG2 W%d H%d F25:1 C420jpeg\n" % (_SIDE, _SIDE) + b"".join(shown)
    options = EncodeOptions(codec="vp9", layers=layers, gop=_FRAMES)
    line = command("yuv4mpegpipe", options, (_SIDE, _SIDE), Fraction(25))
    try:
        run = subprocess.run(line, input=source, capture_output=True, timeout=60)
    except (OSError, subprocess.SubprocessError) as error:
        raise UsageError(f"{executable()} does not run as ffmpeg: {error}") from None
    try:
        written = [bytes(packet) for packet in ivf_packets(BytesIO(run.stdout))]
        kept = len(written) == _FRAMES and (_are_in_layers(written) if layers == 3 else _refer_as(options, written))
        said = messages(run.stderr.splitlines())
    except (ValueError, av.FFmpegError) as error:
        kept, said = False, str(error)
    if not kept:
        told = f" ({said})" if said else ""
        raise UsageError(f"{executable()} does not write the temporal layers it is asked for{told}: use --layers 1")


def _refer_as(options: EncodeOptions, written: list[bytes]) -> bool:
    references = Vp9References()
    return all(references.back(memoryview(one)) == options.back_of(number) for number, one in enumerate(written))


def _are_in_layers(written: list[bytes]) -> bool:
    named = [with_layered_header(memoryview(packet), number) for number, packet in enumerate(written)]
    return _decoded(written) == _decoded(named)


def _decoded(packets: list[bytes]) -> list[bytes]:
    decoder = av.CodecContext.create("vp9", "r")
    decoder.thread_count = 1
    frames = [frame for packet in [*map(av.Packet, packets), None] for frame in decoder.decode(packet)]
    return [frame.to_ndarray().tobytes() for frame in frames]
