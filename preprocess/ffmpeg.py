"""One video through ffmpeg: probe it, turn it into packets, and see that no frame was lost on the way."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import tempfile
import threading
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from typing import IO

import av
import ffmpeg
import imageio_ffmpeg
import numpy as np

from preprocess.errors import DataError

# ffmpeg's libraries take these for videos, but they are text, still pictures or lists of other files.
_NO_VIDEO_FORMATS = {"tty", "hls", "concat", "concatf", "dash", "image2", "sdp", "rtsp"}
_SMALLEST_SHARE_OF_DURATION = 0.95
_READ = 1 << 16


class Unreadable(Exception):
    """A source that cannot become a video of the dataset. ``ffmpeg_message`` is what ffmpeg said, if it did."""

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
    """What a container says of its video stream. ``packets`` was counted, the rest is as declared."""

    format: str
    packets: int
    declared_frames: int
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

    Raises DataError if there is none.
    """
    if named := os.environ.get("V4D_FFMPEG"):
        if found := shutil.which(named):
            return found
        raise DataError(f"V4D_FFMPEG names {named}, which is no program that can be run")
    try:
        return imageio_ffmpeg.get_ffmpeg_exe()
    except RuntimeError:
        raise DataError("no ffmpeg found: install imageio-ffmpeg, or set V4D_FFMPEG to an ffmpeg") from None


@lru_cache(maxsize=1)
def version() -> str:
    """ffmpeg's own version string. Raises DataError if ffmpeg does not run."""
    try:
        answer = subprocess.run([executable(), "-version"], capture_output=True, text=True, timeout=60, check=True)
        return answer.stdout.split()[2]
    except (OSError, subprocess.SubprocessError, IndexError) as error:
        raise DataError(f"{executable()} does not run as ffmpeg: {error}") from None


def probe(source: Path) -> Probe:
    """Read a container's headers and count the packets of its first video stream; nothing is decoded.

    Cover pictures are no video streams. Raises Unreadable.
    """
    try:
        # The libraries' own messages would go to the terminal from every worker.
        av.logging.set_level(av.logging.PANIC)
        with av.open(f"file:{source}", options={"protocol_whitelist": "file"}) as container:
            if set(container.format.name.split(",")) & _NO_VIDEO_FORMATS:
                raise Unreadable(f"no video: ffmpeg takes it for '{container.format.name}'")
            streams = [s for s in container.streams.video if not s.disposition & s.disposition.attached_pic]
            if not streams:
                has_audio = " (it has audio only)" if container.streams.audio else ""
                raise Unreadable(f"no video stream{has_audio}")
            stream = streams[0]
            packets, end = 0, 0.0
            for packet in container.demux(stream):
                if packet.size and not packet.is_discard:
                    packets += 1
                    if packet.pts is not None and packet.time_base is not None:
                        end = max(end, float((packet.pts + (packet.duration or 0)) * packet.time_base))
            duration = float(container.duration or 0) / av.time_base
            found = Probe(
                format=container.format.name,
                packets=packets,
                declared_frames=stream.frames,
                fps=Fraction(stream.average_rate or stream.guessed_rate or 0).limit_denominator(100_000),
                duration=duration,
            )
            start = float(container.start_time or 0) / av.time_base
    except (av.error.FFmpegError, OSError, ValueError) as error:
        raise Unreadable("not readable as a video", str(error)) from None
    if found.packets == 0:
        raise Unreadable("the video stream holds no frame")
    if found.declared_frames > found.packets:
        raise Unreadable(f"truncated: {found.packets} of the {found.declared_frames} frames it declares are there")
    # Containers without a frame count (Matroska, WebM) declare a duration, which may be the audio's: hence the margin.
    if not found.declared_frames and end - start + 1 < duration * _SMALLEST_SHARE_OF_DURATION:
        raise Unreadable(f"truncated: its video ends at {end - start:.1f} s of the {duration:.1f} s it declares")
    return found


def encode(source: Path, options: EncodeOptions, sink: IO[bytes]) -> tuple[Probe, Packets]:
    """Write every shown frame of ``source``, in display order, to ``sink`` as packets of ``options.codec``.

    The picture is turned upright, scaled to the size asked for and converted to the BT.601 matrix at full range,
    the only one that DALI's decoders assume. ffmpeg exits with 0 on truncated input, so the frames that came out
    are compared with the packets that went in.

    Raises Unreadable if the source cannot be decoded, or not wholly; OSError if ``sink`` cannot take the packets;
    DataError if somebody else ended ffmpeg.
    """
    found = probe(source)
    with tempfile.TemporaryFile() as messages:
        # A session of its own: a Ctrl-C at the terminal must not end ffmpeg early and so look like a damaged video.
        process = subprocess.Popen(
            _command(source, options),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=messages,
            start_new_session=True,
        )
        assert process.stdout is not None
        expired = threading.Event()
        watchdog = threading.Timer(options.timeout, lambda: (expired.set(), process.kill()))
        watchdog.start()
        sizes, crc32 = [], []
        try:
            for packet in jpeg_packets(process.stdout):
                sink.write(packet)
                sizes.append(len(packet))
                crc32.append(zlib.crc32(packet))
            process.wait()
        finally:
            watchdog.cancel()
            process.kill()
            process.stdout.close()
            process.wait()
        messages.seek(0)
        said = _without_repeats(messages.read(20_000).decode(errors="replace"))
    if expired.is_set():
        raise Unreadable(f"not done after {options.timeout:g} s", said)
    if process.returncode in (-signal.SIGKILL, -signal.SIGTERM):
        raise DataError(f"ffmpeg was killed while it read {source} (out of memory?): run the same command again")
    if not sizes:
        raise Unreadable("no frame could be decoded", said)
    if len(sizes) != found.packets:
        _check_by_decoding(source, len(sizes), found.packets, said)
    return found, Packets(np.array(sizes, np.int32), np.array(crc32, np.uint32), options.width, options.height)


def _without_repeats(messages: str) -> str:
    """ffmpeg's messages on one line, each once, without the addresses that differ from run to run."""
    lines = (re.sub(r" @ 0x[0-9a-f]+", "", line) for line in messages.splitlines())
    return " | ".join(dict.fromkeys(lines))[:2000]


def _command(source: Path, options: EncodeOptions) -> list[str]:
    """The ffmpeg command line: one thread, no input but the file, one packet per frame whatever the timestamps."""
    stream = ffmpeg.input(f"file:{source}", threads=1, protocol_whitelist="file").output(
        "pipe:1",
        map="0:V:0",
        vf=f"scale={options.width}:{options.height}:flags=bicubic:out_color_matrix=bt601:out_range=full,format=yuvj420p",
        fps_mode="passthrough",
        vcodec="mjpeg",
        threads=1,
        filter_threads=1,
        **{"q:v": options.quality, "flags": "+bitexact"},
        map_metadata=-1,
        format="mjpeg",
    )
    return stream.global_args("-nostdin", "-hide_banner", "-loglevel", "error").compile(cmd=executable())


def _check_by_decoding(source: Path, written: int, packets: int, said: str) -> None:
    """A packet need not be a frame (fields, packed B-frames): where the counts differ, decode and count."""
    decoded, error_text = 0, ""
    try:
        with av.open(f"file:{source}", options={"protocol_whitelist": "file"}) as container:
            for _ in container.decode(video=0):
                decoded += 1
    except (av.error.FFmpegError, OSError, ValueError) as error:
        error_text = str(error)
    if decoded != written or error_text:
        raise Unreadable(f"damaged: {written} of {packets} frames could be decoded", said or error_text)


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
