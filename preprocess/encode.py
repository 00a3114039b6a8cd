"""One video through ffmpeg into packets, with a look whether a frame was lost on the way."""

from __future__ import annotations

import fcntl
import logging
import os
import resource
import shlex
import signal
import subprocess
import tempfile
import threading
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import IO

import numpy as np

from preprocess.errors import DataError, UsageError
from preprocess.ffmpeg import EncodeOptions, command, executable, messages
from preprocess.layer_check import see_that_layers_are_kept
from preprocess.packets import (
    h264_packets,
    ivf_header,
    ivf_packet_header,
    ivf_packets,
    jpeg_packets,
    reference_finder,
)
from preprocess.pictures import joined
from preprocess.probe import Limit, Probe, Taken, examine
from preprocess.sources import Unreadable, opened
from preprocess.vp9 import with_layered_header

_LOG = logging.getLogger(__name__)
# ffmpeg exits with 255 after a signal that it handles.
_KILLED = {-signal.SIGKILL, -signal.SIGTERM, -signal.SIGINT, 255}
_SECONDS_BETWEEN_LOOKS = 0.1
_PIPE = 1 << 20
_MOST_MEMORY = 4 << 30
_LARGEST_OUTPUT = 8 << 30
_LARGEST_SIDE = 16384
_FOURCC = {"vp9": b"VP90", "h264": b"H264"}
_CUT_APART = {"mjpeg": jpeg_packets, "vp9": ivf_packets, "h264": h264_packets}
# Some sources claim a rate that no video has; the packets' number in their file then stands for a time at 25/s.
_RATES = (Fraction(1), Fraction(240))
Keep = Callable[[int, int], bool]


@dataclass(frozen=True)
class Packets:
    """The packets of one video, in display order.

    Sizes in bytes (int32), CRC-32s (uint32) and how many packets back the reference of each lies (uint8, 0 for a
    keyframe), all of shape (packets,); the frame's width and height; frames per second (0: unknown); and the time
    they cover, from ``start`` to before ``end``, in seconds after the first frame that the source shows.
    """

    sizes: np.ndarray
    crc32: np.ndarray
    back: np.ndarray
    width: int
    height: int
    fps: Fraction
    start: float
    end: float


def _keep_all(number: int, expected: int) -> bool:
    return True


@dataclass
class _Output:
    """What came of one run of ffmpeg: sizes, CRC-32s and references, its exit code and what it said."""

    sizes: list[int]
    crc32: list[int]
    back: list[int]
    code: int = 0
    said: str = ""


def encode(
    source: Path,
    options: EncodeOptions,
    sink: IO[bytes],
    stopped: Callable[[], bool] = lambda: False,
    *,
    trim: tuple[float, float] | None = None,
    frame_rate: int = 0,
    keep: Keep = _keep_all,
) -> tuple[Probe, Packets]:
    """Write every shown frame of ``source``, in display order, to ``sink`` as packets of ``options.codec``.

    JPEGs lie one behind the other; ``sink`` gets an IVF file of the other codecs, and must be one that can be
    written again from where it was. With a ``frame_rate`` (frames per second) the source is a folder of pictures
    (see ``joined``). Of a ``trim`` (start, end) come the frames shown at its start or later and before its end, in
    seconds after the first frame shown; an end up to 10 s behind the video's is moved there. With ``options.fps``,
    frame k is the one shown nearest to k / fps seconds after the first that is taken (ffmpeg's fps filter).

    The picture is turned upright, scaled to the size asked for and converted to the BT.601 matrix, the only one that
    DALI's decoders assume: JPEG at full range, the others at limited range and marked so. ``keep`` says of the number
    of each packet whether ``sink`` gets it, given how many the container lets expect. A packet that does not
    decode makes the whole video unreadable. With ``options.fps`` frames cannot be counted one by one: then any
    complaint of ffmpeg does, and so do fewer or more frames than fit the time, give or take 2 and what is shown in
    the longest time between two frames.

    Raises Unreadable if the source cannot be decoded, wholly and in time, or lies beyond the options' bounds; OSError
    if ``sink`` cannot take the packets; Interrupted soon after ``stopped()`` is true; DataError if somebody else
    ended ffmpeg; UsageError if ffmpeg is not fit for this.
    """
    limit = Limit(options.timeout, stopped)
    if frame_rate:
        with joined(source, frame_rate, options, trim, limit) as (file, found, taken):
            return found, _encode(source, file.fileno(), found, taken, options, sink, limit, frame_rate, keep)
    with opened(source) as descriptor:
        found, taken = examine(descriptor, options, trim, limit)
        return found, _encode(source, descriptor, found, taken, options, sink, limit, 0, keep)


def _encode(
    source: Path,
    descriptor: int,
    found: Probe,
    taken: Taken,
    options: EncodeOptions,
    sink: IO[bytes],
    limit: Limit,
    picture_rate: int,
    keep: Keep,
) -> Packets:
    if not taken.packets:
        raise Unreadable(f"trim: no frame is shown from {taken.start:g} s to {taken.end:g} s")
    size = options.size_of(found.width, found.height)
    if max(size) > _LARGEST_SIDE:
        raise Unreadable(f"too large: {size[0]}x{size[1]} pixels when resized, at most {_LARGEST_SIDE} wide or high")
    fps = Fraction(options.fps).limit_denominator(100_000) if options.fps is not None else found.fps
    rate = fps if _RATES[0] <= fps <= _RATES[1] else Fraction(25)
    # As ffmpeg's fps filter rounds.
    expected = taken.packets if options.fps is None else max(1, int((taken.end - taken.start) * fps + Fraction(1, 2)))
    begin = sink.tell()
    for cut in taken.cuts:
        sink.seek(begin)
        sink.truncate()
        line = command(found.format, options, size, rate, cut=cut, picture_rate=picture_rate)
        output = _run(source, line, descriptor, options, sink, limit, lambda number: keep(number, expected))
        if cut is None or not cut.ordered or _is_exact(output, taken, options):
            break
    _check(output, found, taken, options)
    if options.layers == 3:
        see_that_layers_are_kept(3)
    if options.codec != "mjpeg":
        end = sink.tell()
        sink.seek(begin)
        ticks = (rate.numerator, rate.denominator)
        sink.write(ivf_header(_FOURCC[options.codec], *size, ticks, len(output.sizes)))
        sink.seek(end)
    sizes, crc32 = np.array(output.sizes, np.int32), np.array(output.crc32, np.uint32)
    back = np.array(output.back, np.uint8)
    return Packets(sizes, crc32, back, *size, fps, taken.start, taken.end)


def _run(
    source: Path,
    line: list[str],
    descriptor: int,
    options: EncodeOptions,
    sink: IO[bytes],
    limit: Limit,
    keep: Callable[[int], bool],
) -> _Output:
    """Run ffmpeg on an open file and write its packets to ``sink``."""
    _LOG.debug("%s: %s", source, shlex.join(line))
    os.lseek(descriptor, 0, os.SEEK_SET)
    with tempfile.TemporaryFile() as log:
        # A session of its own: a Ctrl-C at the terminal must not end ffmpeg early and so look like a damaged video.
        process = subprocess.Popen(line, stdin=descriptor, stdout=subprocess.PIPE, stderr=log, start_new_session=True)
        with process, _killed_when(limit.due, process):
            assert process.stdout is not None
            _bound(process, process.stdout)
            try:
                output = _write(process.stdout, options, sink, keep)
            except ValueError as error:
                if options.layers == 2:
                    # Where frames are chosen, their numbers begin again with another size: not the encoder's fault.
                    see_that_layers_are_kept(2)
                    raise Unreadable(f"not for 2 layers: its size or format may change midway ({error})") from None
                raise UsageError(f"{executable()} does not write what it was asked for: {error}") from None
            process.wait()
        log.seek(0)
        output.code, output.said = process.returncode, messages(log)
    if output.code == -signal.SIGKILL:
        limit.check(output.said)
    _check_exit(source, output)
    return output


def _write(stream: IO[bytes], options: EncodeOptions, sink: IO[bytes], keep: Callable[[int], bool]) -> _Output:
    """Write packets to ``sink`` and see that each, kept or not, is what it should be. Raises ValueError where not."""
    output, back_of, gop = _Output([], [], []), reference_finder(options.codec), options.gop or 1
    in_ivf, total = options.codec != "mjpeg", 0
    if in_ivf:
        sink.write(bytes(32))
    for number, packet in enumerate(_CUT_APART[options.codec](stream)):
        if options.layers == 3:
            packet = memoryview(with_layered_header(packet, number % gop))
        back, wanted = back_of(packet), options.back_of(number)
        if (back == 0) != (wanted == 0):
            raise ValueError(f"packet {number} is {'no ' * (wanted == 0)}keyframe, at a GOP of {gop}")
        if back != wanted:
            raise ValueError(f"packet {number} refers to the one {back} before it, not {wanted}")
        size = len(packet)
        total += size
        if total > _LARGEST_OUTPUT:
            raise Unreadable("too large: more than 8 GiB of packets")
        if keep(number):
            if in_ivf:
                sink.write(ivf_packet_header(size, number))
            sink.write(packet)
        output.sizes.append(size)
        output.crc32.append(zlib.crc32(packet))
        output.back.append(back)
    return output


def _bound(process: subprocess.Popen[bytes], stream: IO[bytes]) -> None:
    """Bound the memory that ffmpeg may ask for, and let it write far ahead of us, where the system can."""
    if hasattr(resource, "prlimit"):
        with suppress(ProcessLookupError):
            resource.prlimit(process.pid, resource.RLIMIT_AS, (_MOST_MEMORY, _MOST_MEMORY))
    if hasattr(fcntl, "F_SETPIPE_SZ"):
        # A user has so many pages for pipes in all; with fewer it is slower.
        with suppress(OSError):
            fcntl.fcntl(stream.fileno(), fcntl.F_SETPIPE_SZ, _PIPE)


@contextmanager
def _killed_when(due: Callable[[], bool], process: subprocess.Popen[bytes]) -> Iterator[None]:
    """Kill a process as soon as ``due()``, and at the end of the block in any case."""
    finished = threading.Event()

    def watch() -> None:
        while not finished.wait(_SECONDS_BETWEEN_LOOKS):
            if due():
                process.kill()

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        finished.set()
        watcher.join()
        process.kill()


def _check_exit(source: Path, output: _Output) -> None:
    """Tell what is wrong with a video from what is wrong with ffmpeg, or was done to it."""
    if output.code in _KILLED:
        raise DataError(f"ffmpeg was killed while it read {source} (out of memory?): run the same command again")
    if output.code < 0:
        raise Unreadable(f"ffmpeg crashed: {signal.Signals(-output.code).name}", output.said)
    if "Unknown encoder" in output.said:
        raise UsageError(f"{executable()} cannot write this codec: {output.said}")


def _is_exact(output: _Output, taken: Taken, options: EncodeOptions) -> bool:
    """Whether a run that entered and left the source midway gave what a run through all of it would give."""
    silent = output.code == 0 and not output.said
    if options.fps is not None:
        return silent and _fits_the_time(len(output.sizes), taken, options.fps)
    return output.code == 0 and len(output.sizes) == taken.packets


def _fits_the_time(frames: int, taken: Taken, fps: float) -> bool:
    return abs(frames - (taken.end - taken.start) * fps) <= 2 + taken.gap * fps


def _check(output: _Output, found: Probe, taken: Taken, options: EncodeOptions) -> None:
    """See that no frame is lost. Raises Unreadable if one is."""
    frames, said = len(output.sizes), output.said
    if "Cannot allocate memory" in said and (output.code != 0 or frames < taken.packets):
        raise Unreadable(f"too large: ffmpeg needs more than {_MOST_MEMORY >> 30} GiB of memory", said)
    if "exceeds specified max pixel count" in said and (output.code != 0 or frames < taken.packets):
        raise Unreadable(f"too large: a picture of more than {options.largest_picture} pixels", said)
    if not frames:
        raise Unreadable("no frame could be decoded", said)
    if options.fps is not None:
        if output.code != 0 or said:
            raise Unreadable(f"damaged: ffmpeg complains about some of {taken.packets} frames", said)
        if not _fits_the_time(frames, taken, options.fps):
            raise Unreadable(
                f"frames lost: {frames} at {options.fps:g}/s for {taken.end - taken.start:.2f} s of the source"
            )
    # ffmpeg exits with 0 when it could not decode a packet, but says so. Fewer frames than packets without a word
    # are no loss: two fields make a frame, or one is hidden.
    elif output.code != 0 or (said and frames < taken.packets):
        raise Unreadable(f"damaged: {frames} of {taken.packets} frames could be decoded", said)
