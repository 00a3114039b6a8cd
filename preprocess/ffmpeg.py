"""One video through ffmpeg: probe it, turn it into packets, and see that no frame was lost on the way."""

from __future__ import annotations

import os
import re
import shutil
import signal
import stat
import subprocess
import tempfile
import threading
import time
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import IO

import av
import ffmpeg
import imageio_ffmpeg
import numpy as np
from av.container import InputContainer
from av.video.stream import VideoStream

from preprocess.errors import DataError, Interrupted, UsageError

# libav reads these, but they are text and still pictures (as are its formats with names in _pipe).
_NO_VIDEO_FORMATS = {"tty", "image2"}
_SMALLEST_SHARE_OF_DURATION = 0.95
# ffmpeg exits with 255 after a signal that it handles.
_KILLED = {-signal.SIGKILL, -signal.SIGTERM, -signal.SIGINT, 255}
# Without full_chroma_int white comes out 6 levels too dark where the matrix changes. It costs no time; accurate_rnd,
# for 2 levels more, would cost up to half of it.
_SCALER = "bicubic+full_chroma_int"
_READ = 1 << 16
_SECONDS_BETWEEN_LOOKS = 0.1
_MESSAGES_PER_PART = 3


class Unreadable(Exception):
    """A source that cannot become a video of the dataset. ``ffmpeg_message`` is what ffmpeg said, if it did.

    Of ``reason`` the part before a colon is of a kind; what follows differs from video to video.
    """

    def __init__(self, reason: str, ffmpeg_message: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.ffmpeg_message = ffmpeg_message


@dataclass(frozen=True)
class EncodeOptions:
    """How frames become packets. ``quality`` is ffmpeg's ``-q:v``, 2 (best) to 31; ``timeout`` is in seconds."""

    width: int = 320
    height: int = 256
    codec: str = "mjpeg"
    quality: int = 4
    timeout: float = 900.0


@dataclass(frozen=True)
class Probe:
    """A video stream as its container has it: packets to show, frames per second (0: unknown), duration in seconds."""

    format: str
    packets: int
    fps: Fraction
    duration: float


@dataclass(frozen=True)
class Packets:
    """The packets of one video, in display order: sizes in bytes (int32), CRC-32s (uint32) and the frame's size."""

    sizes: np.ndarray
    crc32: np.ndarray
    width: int
    height: int


@lru_cache(maxsize=1)
def executable() -> str:
    """Path of the ffmpeg to run: the one that ``V4D_FFMPEG`` names, else the one in imageio-ffmpeg's wheel.

    Raises UsageError if there is none.
    """
    if named := os.environ.get("V4D_FFMPEG"):
        if found := shutil.which(named):
            return found
        raise UsageError(f"V4D_FFMPEG names {named}, which is no program that can be run")
    try:
        return str(imageio_ffmpeg.get_ffmpeg_exe())
    except RuntimeError:
        raise UsageError("no ffmpeg found: install imageio-ffmpeg, or set V4D_FFMPEG to an ffmpeg") from None


@lru_cache(maxsize=1)
def version() -> str:
    """ffmpeg's own version string. Raises UsageError if the program does not run, is no ffmpeg, or is too old."""

    def run(command: list[str]) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=60)

    try:
        words = run([executable(), "-version"]).stdout.decode(errors="replace").split(maxsplit=3)
        if len(words) < 3 or words[:2] != ["ffmpeg", "version"]:
            raise UsageError(f"{executable()} is no ffmpeg: set V4D_FFMPEG to one")
        # An empty video is not to its taste either, but that it says later.
        said = _messages(run(_command("mjpeg", EncodeOptions())).stderr.splitlines())
    except (OSError, subprocess.SubprocessError) as error:
        raise UsageError(f"{executable()} does not run as ffmpeg: {error}") from None
    if "Option not found" in said:
        raise UsageError(f"{executable()} {words[2]} is too old, 5.1 is needed: it says {said}")
    return words[2]


@contextmanager
def _opened(source: Path) -> Iterator[int]:
    """A descriptor of a regular file. Raises Unreadable for what is no file, or cannot be opened."""
    try:
        # A FIFO would make us wait for somebody to write to it.
        descriptor = os.open(source, os.O_RDONLY | os.O_NONBLOCK)
    except OSError as error:
        raise Unreadable(f"cannot be opened: {error.strerror}") from None
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise Unreadable("no regular file")
        yield descriptor
    finally:
        os.close(descriptor)


def probe(source: Path) -> Probe:
    """Read a container's headers and the timestamps of its packets; nothing is decoded.

    Cover pictures are no video streams. Raises Unreadable, also where the file breaks off.
    """
    with _opened(source) as descriptor:
        return _probe(descriptor)


def _probe(descriptor: int) -> Probe:
    # The libraries' own messages would go to the terminal from every worker.
    av.logging.set_level(av.logging.PANIC)
    # With a descriptor instead of a name, a file is what its content says, and a playlist leads nowhere.
    options = {"fd": str(descriptor), "protocol_whitelist": "fd"}
    try:
        with av.open("fd:", options=options, metadata_errors="replace") as container:
            return _read_through(container, _video_stream(container))
    except (av.error.FFmpegError, OSError, ValueError) as error:
        # Not str(error): that also quotes the log, in which a message seen before is left out.
        raise Unreadable("not readable as a video", getattr(error, "strerror", None) or str(error)) from None


def _video_stream(container: InputContainer) -> VideoStream:
    name = container.format.name
    if name.endswith("_pipe") or name in _NO_VIDEO_FORMATS:
        raise Unreadable(f"no video: ffmpeg takes it for '{name}'")
    for stream in container.streams.video:
        if not stream.disposition & stream.disposition.attached_pic:
            return stream
    raise Unreadable(f"no video stream{' (it has audio only)' if container.streams.audio else ''}")


def _read_through(container: InputContainer, stream: VideoStream) -> Probe:
    """Demultiplex to the end and see that it is where the headers say."""
    packets, shown_at, video_end, file_end, cut_off = 0, [], 0.0, 0.0, False
    for packet in container.demux():
        begins = packet.dts if packet.pts is None else packet.pts
        unit = float(packet.time_base or 0)
        end = ((begins or 0) + (packet.duration or 0)) * unit
        file_end = max(file_end, end)
        if packet.stream_index == stream.index and packet.size:
            cut_off = packet.is_corrupt
            video_end = max(video_end, end)
            packets += not packet.is_discard
            if begins is not None and not packet.is_discard:
                shown_at.append(begins * unit)
    if packets == 0:
        raise Unreadable("the video stream holds no frame")
    if cut_off:
        raise Unreadable("truncated: breaks off inside a frame")
    shown_at.sort()
    # By the time, not by the number of frames: AVI counts empty ones too, and MP4 those that an edit list cuts. The
    # last frame may stay for as long as any other; some containers do not say.
    ends = file_end + max((later - earlier for earlier, later in pairwise(shown_at)), default=0.0)
    declared = float(container.duration or 0) / av.time_base
    if shown_at and ends < declared * _SMALLEST_SHARE_OF_DURATION:
        raise Unreadable(f"truncated: breaks off at {ends:.2f} s of the {declared:.2f} s it declares")
    fps = Fraction(stream.average_rate or stream.guessed_rate or 0).limit_denominator(100_000)
    duration = max(0.0, video_end - shown_at[0]) if shown_at else float(packets / fps if fps else 0)
    return Probe(container.format.name, packets, fps, duration)


def encode(
    source: Path, options: EncodeOptions, sink: IO[bytes], stopped: Callable[[], bool] = lambda: False
) -> tuple[Probe, Packets]:
    """Write every shown frame of ``source``, in display order, to ``sink`` as packets of ``options.codec``.

    The picture is turned upright, scaled to the size asked for and converted to the BT.601 matrix at full range,
    the only one that DALI's decoders assume. A packet that does not decode makes the whole video unreadable.

    Raises Unreadable if the source cannot be decoded, wholly and in time; OSError if ``sink`` cannot take the
    packets; Interrupted soon after ``stopped()`` is true; DataError if somebody else ended ffmpeg; UsageError if
    ffmpeg is not fit for this.
    """
    deadline = time.monotonic() + options.timeout
    sizes, crc32 = [], []

    def due() -> bool:
        return stopped() or time.monotonic() > deadline

    with _opened(source) as descriptor, tempfile.TemporaryFile() as messages:
        found = _probe(descriptor)
        # A session of its own: a Ctrl-C at the terminal must not end ffmpeg early and so look like a damaged video.
        os.lseek(descriptor, 0, os.SEEK_SET)
        process = subprocess.Popen(
            _command(found.format, options),
            stdin=descriptor,
            stdout=subprocess.PIPE,
            stderr=messages,
            start_new_session=True,
        )
        with process, _killed_when(due, process):
            assert process.stdout is not None
            try:
                for packet in jpeg_packets(process.stdout):
                    sink.write(packet)
                    sizes.append(len(packet))
                    crc32.append(zlib.crc32(packet))
            except ValueError as error:
                raise UsageError(f"{executable()} does not write what it was asked for: {error}") from None
            process.wait()
        messages.seek(0)
        said = _messages(messages)
    if process.returncode == -signal.SIGKILL and due():
        if stopped():
            raise Interrupted
        raise Unreadable(f"not done after {options.timeout:g} s", said)
    _check_exit(source, process.returncode, said)
    if not sizes:
        raise Unreadable("no frame could be decoded", said)
    # ffmpeg exits with 0 when it could not decode a packet, but says so. Fewer frames than packets without a word
    # are no loss: two fields make a frame, or one is hidden.
    if process.returncode != 0 or (said and len(sizes) < found.packets):
        raise Unreadable(f"damaged: {len(sizes)} of {found.packets} frames could be decoded", said)
    return found, Packets(np.array(sizes, np.int32), np.array(crc32, np.uint32), options.width, options.height)


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


def _check_exit(source: Path, code: int, said: str) -> None:
    """Tell what is wrong with a video from what is wrong with ffmpeg, or was done to it."""
    if code in _KILLED:
        raise DataError(f"ffmpeg was killed while it read {source} (out of memory?): run the same command again")
    if code < 0:
        raise Unreadable(f"ffmpeg crashed: {signal.Signals(-code).name}", said)


def _messages(log: Iterable[bytes]) -> str:
    """ffmpeg's messages on one line, the same from run to run: without addresses, the first of each of its parts.

    The parts log from threads of their own, so that the order between them is not always the same.
    """
    parts: dict[str, dict[str, None]] = defaultdict(dict)
    for line in log:
        text = re.sub(r" @ 0x[0-9a-f]+", "", line.decode(errors="replace").strip())
        part = parts[text.partition("]")[0] if text.startswith("[") else ""]
        if len(part) < _MESSAGES_PER_PART:
            part[text] = None
    return " | ".join(text for name in sorted(parts) for text in parts[name])


def _command(container_format: str, options: EncodeOptions) -> list[str]:
    """The ffmpeg command line: a file as standard input, one thread, one packet per frame whatever the timestamps.

    The frames are numbered anew, since the encoder refuses the timestamps that some sources have. Where the format
    is given as yuvj420p, ffmpeg 7.0 leaves the colour matrix as it was.
    """
    stream = ffmpeg.input(
        "file:/dev/stdin", format=container_format.partition(",")[0], threads=1, protocol_whitelist="file"
    ).output(
        "pipe:1",
        map="0:V:0",
        vf=f"scale={options.width}:{options.height}:flags={_SCALER}:out_color_matrix=bt601:out_range=full,"
        "format=yuv420p,settb=1/1000,setpts=N",
        fps_mode="passthrough",
        enc_time_base="1/1000",
        vcodec="mjpeg",
        threads=1,
        filter_threads=1,
        **{"q:v": options.quality, "flags": "+bitexact"},
        map_metadata=-1,
        format="mjpeg",
    )
    command: list[str] = stream.global_args("-nostdin", "-hide_banner", "-loglevel", "repeat+error").compile(
        cmd=executable()
    )
    return command


def jpeg_packets(stream: IO[bytes]) -> Iterator[bytes]:
    """Cut concatenated JPEGs (ITU-T T.81) apart.

    The segments before a scan are skipped by their lengths, for a table may hold the bytes of a marker; inside a
    scan 0xFF is always followed by 0x00 or a restart marker, so the next FF D9 ends the picture. A picture that
    the stream breaks off in is left out. Raises ValueError where the bytes are no JPEG.
    """
    held = bytearray()

    def need(count: int) -> bool:
        while len(held) < count:
            block = stream.read(_READ)
            if not block:
                return False
            held.extend(block)
        return True

    while need(4):
        if held[:2] != b"\xff\xd8":
            raise ValueError(f"no JPEG: starts with {held[:2].hex()}")
        at = 2
        while True:
            if not need(at + 4):
                return
            if held[at] != 0xFF:
                raise ValueError(f"no JPEG: {held[at : at + 2].hex()} where a marker should be")
            marker = held[at + 1]
            at += 2 + int.from_bytes(held[at + 2 : at + 4], "big")
            if marker == 0xDA:
                break
        while (end := held.find(b"\xff\xd9", at)) < 0:
            at = max(at, len(held) - 1)
            if not need(len(held) + 1):
                return
        yield bytes(held[: end + 2])
        del held[: end + 2]
