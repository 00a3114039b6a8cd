"""What a video is, by its container: read through to the end, with nothing decoded."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
from av.container import InputContainer
from av.packet import Packet
from av.video.stream import VideoStream

from preprocess.errors import Interrupted
from preprocess.ffmpeg import Cut, EncodeOptions
from preprocess.sources import Unreadable, opened

# libav reads these, but they are text and still pictures (as are its formats with names in _pipe), or lists of
# other files, of which none may be followed.
_NO_VIDEO_FORMATS = {"tty", "image2", "hls", "concat", "dash", "sdp", "imf", "avisynth", "vapoursynth", "lavfi"}
# Those whose packets all say when they are shown, and which ffmpeg can enter at any keyframe.
_SEEKABLE = {"mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm"}
_SMALLEST_SHARE_OF_DURATION = 0.95
_LATEST_END = 10.0
_PACKETS_BETWEEN_LOOKS = 256
_LONGEST_BETWEEN_LOOKS = 10.0


class Limit:
    """When to give a video up: after so many seconds, or because somebody asked to stop.

    Of the time between two looks at it 10 seconds count at most. So a run that is suspended, by Ctrl-Z or a scheduler
    that lends its cores to others, does not give up the videos that it was at.
    """

    def __init__(self, seconds: float, stopped: Callable[[], bool] = lambda: False) -> None:
        self.seconds = seconds
        self.stopped = stopped
        self._left, self._looked = seconds, time.monotonic()

    @property
    def left(self) -> float:
        """Seconds that are left."""
        now = time.monotonic()
        self._left -= min(now - self._looked, _LONGEST_BETWEEN_LOOKS)
        self._looked = now
        return self._left

    def due(self) -> bool:
        """Whether it is time."""
        return self.stopped() or self.left < 0

    def check(self, said: str = "") -> None:
        """Raise Interrupted if somebody asked to stop, Unreadable if the time is over."""
        if self.stopped():
            raise Interrupted
        if self.left < 0:
            raise Unreadable(f"not done after {self.seconds:g} s", said)


@dataclass(frozen=True)
class Probe:
    """A video stream as its container has it.

    Packets to show, frames per second (0: unknown), duration in seconds, and the width and height of its pictures,
    which are upright where somebody needs to know.
    """

    format: str
    packets: int
    fps: Fraction
    duration: float
    width: int = 0
    height: int = 0


@dataclass(frozen=True)
class Taken:
    """What is to be taken of a source: packets to show, the longest time between two of them, and from when to when.

    Times are in seconds after the first frame that the source shows. ``cuts`` are the ways for ffmpeg to take just
    that, best first; None is the whole source.
    """

    packets: int
    gap: float
    start: float
    end: float
    cuts: tuple[Cut | None, ...] = (None,)


def probe(source: Path) -> Probe:
    """Read a container's headers and the timestamps of its packets; nothing is decoded.

    Cover pictures are no video streams. Raises Unreadable, also where the file breaks off.
    """
    options = EncodeOptions()
    with opened(source) as descriptor:
        return examine(descriptor, options, None, Limit(options.timeout))[0]


def examine(
    descriptor: int, options: EncodeOptions, trim: tuple[float, float] | None, limit: Limit
) -> tuple[Probe, Taken]:
    """Probe an open file and say what to take of it: the frames of ``trim`` (start, end in seconds), or all.

    Raises Unreadable also where the file is larger than the options allow, where it breaks off before the end of
    what is to be taken, or where ``trim`` lies outside of it; and Interrupted.
    """
    with _container(descriptor, limit, options.largest_picture) as container:
        stream = _video_stream(container)
        check_size(options, stream.width, stream.height)
        read = _Reading(_seekable_codec(container, stream) if trim else "")
        upright = _Upright(stream, options) if options.fixed_size is None else None
        for number, packet in enumerate(container.demux()):
            if number % _PACKETS_BETWEEN_LOOKS == 0:
                limit.check()
            read.add(packet, stream.index)
            if read.packets > options.most_frames:
                raise Unreadable(f"too large: more than {options.most_frames} frames")
            if upright and packet.stream_index == stream.index:
                upright.look(packet)
        width, height = upright.size if upright else (stream.width, stream.height)
        if upright and not width * height:
            raise Unreadable(f"no size: no picture of at most {options.largest_picture} pixels says its own")
        check_size(options, width, height)
        return read.found(container, stream, options, trim, (width, height))


def check_size(options: EncodeOptions, width: int, height: int) -> None:
    """Raises Unreadable for pictures larger than the options allow."""
    if width * height > options.largest_picture:
        raise Unreadable(f"too large: {width}x{height} pixels, at most {options.largest_picture} in all")


def check_length(options: EncodeOptions, seconds: float) -> None:
    """Raises Unreadable for a source longer than the options allow."""
    if seconds > options.longest:
        raise Unreadable(f"too large: {seconds:.0f} s long, at most {options.longest:g}")


@contextmanager
def _container(descriptor: int, limit: Limit, largest_picture: int) -> Iterator[InputContainer]:
    # The libraries' own messages would go to the terminal from every worker.
    av.logging.set_level(av.logging.PANIC)
    # With a descriptor instead of a name, a file is what its content says, and a playlist leads nowhere.
    # libav decodes a frame or two to know a stream, in this process; a picture beyond max_pixels has no size for it.
    options = {"fd": str(descriptor), "protocol_whitelist": "fd", "max_pixels": str(largest_picture)}
    try:
        with av.open("fd:", options=options, metadata_errors="replace", timeout=max(0.001, limit.left)) as container:
            yield container
    except av.error.ExitError:
        # Of the time that one call may take, of which a look at the limit counts a part alone.
        raise Unreadable(f"not done after {limit.seconds:g} s") from None
    except (av.error.FFmpegError, OSError, ValueError) as error:
        limit.check()
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


class _Upright:
    """The size of a stream's pictures once they are turned as they should be, which only a decoded frame tells."""

    def __init__(self, stream: VideoStream, options: EncodeOptions) -> None:
        self.size = (stream.width, stream.height)
        self._seen = False
        stream.codec_context.thread_count = 1
        stream.codec_context.options = {"max_pixels": str(options.largest_picture)}

    def look(self, packet: Packet[Any]) -> None:
        """Decode a packet if no frame was seen yet."""
        if self._seen:
            return
        try:
            frames = packet.decode()
        except av.error.FFmpegError:
            return
        for frame in frames:
            assert isinstance(frame, av.VideoFrame)
            turned = frame.rotation % 180 != 0
            self.size = (frame.height, frame.width) if turned else (frame.width, frame.height)
            self._seen = True
            return


class _Reading:
    """What the packets of a container say, gathered one by one."""

    def __init__(self, seekable_codec: str) -> None:
        self.packets = 0
        # When frames are shown, in ticks, and those of them that ffmpeg can begin at.
        self._shown: list[int] = []
        self._entries: list[int] = []
        self._codec = seekable_codec
        self._units: dict[int, float] = {}
        self._last_dts: int | None = None
        self._video_end = self._file_end = 0.0
        self._all_timed, self._cut_off = True, False

    def add(self, packet: Packet[Any], video: int) -> None:
        """One packet of any stream."""
        begins = packet.dts if packet.pts is None else packet.pts
        index = packet.stream_index
        if (unit := self._units.get(index)) is None:
            unit = self._units[index] = float(packet.time_base or 0)
        end = ((begins or 0) + (packet.duration or 0)) * unit
        self._file_end = max(self._file_end, end)
        if index != video or not packet.size:
            return
        self._cut_off = packet.is_corrupt
        self._video_end = max(self._video_end, end)
        self._last_dts = packet.dts
        self._all_timed &= packet.pts is not None
        if packet.is_discard:
            return
        self.packets += 1
        if begins is not None:
            self._shown.append(begins)
            if self._codec and packet.is_keyframe and _can_begin(packet, self._codec):
                self._entries.append(begins)

    def found(
        self,
        container: InputContainer,
        stream: VideoStream,
        options: EncodeOptions,
        trim: tuple[float, float] | None,
        size: tuple[int, int],
    ) -> tuple[Probe, Taken]:
        """See that the file ends where its headers say, and what is to be taken of it."""
        if self.packets == 0:
            raise Unreadable("the video stream holds no frame")
        unit = Fraction(stream.time_base or 1)
        self._shown.sort()
        fps = Fraction(stream.average_rate or stream.guessed_rate or 0).limit_denominator(100_000)
        origin = float(self._shown[0] * unit) if self._shown else 0.0
        duration = max(0.0, self._video_end - origin) if self._shown else float(self.packets / fps if fps else 0)
        # The last frame may stay for as long as any other; some containers do not say.
        gap = float(max((later - earlier for earlier, later in pairwise(self._shown)), default=0) * unit)
        whole_until = (self._last_dts or 0) * float(unit) - origin
        if not (trim and trim[1] <= whole_until):
            self._check_end(float(container.duration or 0) / av.time_base, gap)
        check_length(options, duration)
        about = Probe(container.format.name, self.packets, fps, duration, *size)
        if trim is None:
            return about, Taken(self.packets, gap, 0.0, duration)
        start, end = inside(trim, duration)
        return about, self._cut(unit, start, end, trim[1])

    def _check_end(self, declared: float, gap: float) -> None:
        if self._cut_off:
            raise Unreadable("truncated: breaks off inside a frame")
        # By the time, not by the number of frames: AVI counts empty ones too, and MP4 those that an edit list cuts.
        ends = self._file_end + gap
        if self._shown and ends < declared * _SMALLEST_SHARE_OF_DURATION:
            raise Unreadable(f"truncated: breaks off at {ends:.2f} s of the {declared:.2f} s it declares")

    def _cut(self, unit: Fraction, start: float, end: float, asked_end: float) -> Taken:
        """The cut from ``start`` to before ``end``, both exact to a tick."""
        origin = self._shown[0] if self._shown else 0
        first = origin + _ticks(start, unit)
        # Not the clipped end: the last frame may be shown when the container says the video is over.
        last = origin + _ticks(asked_end, unit)
        shown = [at for at in self._shown if first <= at < last]
        gap = float(max((later - earlier for earlier, later in pairwise(shown)), default=0) * unit)
        exact = Cut(unit, first, last)
        if not (self._codec and self._all_timed):
            return Taken(len(shown), gap, start, end, (exact,))
        # One keyframe earlier than needed, for where a demuxer lands depends on its own table of them.
        entries = sorted(at for at in self._entries if at <= first)[-2:]
        seek = float(entries[0] * unit) if len(entries) == 2 and entries[0] > origin else None
        return Taken(len(shown), gap, start, end, (Cut(unit, first, last, seek, ordered=True), exact))


def _ticks(seconds: float, unit: Fraction) -> int:
    """The first tick at a time or after it. 0.1 s is a tenth, not what is nearest to it among binary fractions."""
    return -(-Fraction(seconds).limit_denominator(1_000_000) // unit)


def inside(trim: tuple[float, float], duration: float) -> tuple[float, float]:
    """The part of ``trim`` that lies in a video; annotations say ends some seconds late.

    Raises Unreadable if it begins after the video's end, or ends more than 10 s after it.
    """
    start, end = trim
    if not 0 <= start < end < math.inf:
        raise Unreadable(f"trim: from {start:g} s to {end:g} s is no time")
    if start >= duration:
        raise Unreadable(f"trim: starts at {start:g} s, the video ends at {duration:.1f} s")
    if end > duration + _LATEST_END:
        raise Unreadable(f"trim: ends at {end:g} s, the video ends at {duration:.1f} s")
    return start, min(end, duration)


def _seekable_codec(container: InputContainer, stream: VideoStream) -> str:
    """The name of the codec if ffmpeg can enter the stream at a keyframe that we can tell, else ""."""
    name, extra = stream.codec_context.name, stream.codec_context.extradata or b""
    if container.format.name not in _SEEKABLE or (name == "h264" and (len(extra) < 5 or extra[4] & 3 != 3)):
        return ""
    return name


def _can_begin(packet: Packet[Any], codec: str) -> bool:
    """Whether nothing shown after this keyframe refers to what came before it.

    In H.264 what a container calls a keyframe may be where a picture slowly renews itself; only an IDR picture will
    do (Rec. ITU-T H.264, 7.4.1.2.4). Its packets here are units, each behind its length in 4 bytes.
    """
    if codec != "h264":
        return True
    data, at = bytes(packet), 0
    while at + 5 <= len(data):
        if data[at + 4] & 0x1F in (1, 5):
            return data[at + 4] & 0x1F == 5
        at += 4 + int.from_bytes(data[at : at + 4], "big")
    return False
