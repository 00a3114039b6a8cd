"""The program ffmpeg: where it is, what it is asked to do, and what it says."""

from __future__ import annotations

import logging
import math
import os
import re
import shutil
import subprocess
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from fractions import Fraction
from functools import lru_cache
from typing import Any, NamedTuple

import ffmpeg
import imageio_ffmpeg

from preprocess.errors import UsageError
from preprocess.vp9 import LAYER_PERIODS, layered_back

_LOG = logging.getLogger(__name__)
# Without full_chroma_int white comes out 6 levels too dark where the matrix changes. It costs no time; accurate_rnd,
# for 2 levels more, would cost up to half of it.
_SCALER = "bicubic+full_chroma_int"
_MESSAGES_PER_PART = 3
_SMALLEST_SIDE, _LARGEST_SIDE = 16, 4096
_LARGEST_FPS = 240
_LAYERS, _LAYERED_GOP = 3, 32


class _Codec(NamedTuple):
    """What is particular to a codec: its quality, best and worst and by default, its GOP, and ffmpeg's options."""

    best: int
    worst: int
    quality: int
    gop: int
    quality_option: str
    levels: str
    arguments: dict[str, Any]


_COMPACT = {"colorspace": "bt470bg", "color_range": "tv"}
_CODECS = {
    "mjpeg": _Codec(2, 31, 4, 1, "q:v", "full", {"vcodec": "mjpeg", "format": "mjpeg", "huffman": "default"}),
    # One packet for each frame, in order: nothing is looked ahead at, and no frame is hidden.
    "vp9": _Codec(
        *(0, 63, 37, 8, "crf", "limited"),
        {"vcodec": "libvpx-vp9", "format": "ivf", "deadline": "realtime", "cpu-used": 8, "lag-in-frames": 0}
        | {"auto-alt-ref": 0, "b:v": 0, **_COMPACT},
    ),
    # With access unit delimiters, which is where it can be cut: ffmpeg's IVF takes no H.264.
    # At crf 0 it is of a profile for lossless video, which no GPU decodes.
    "h264": _Codec(
        *(1, 51, 23, 8, "crf", "limited"),
        {"vcodec": "libx264", "format": "h264", "preset": "veryfast", "bf": 0, "sc_threshold": 0, "aud": 1} | _COMPACT,
    ),
}


_INDEPENDENT = {"error-resilient": 1}
# At constant quality the layers' bit rates mean nothing, and this mode brings all else along.
_IN_3_LAYERS = {"ts-parameters": "ts_layering_mode=3"}
# Flags of libvpx (vpx/vp8cx.h), which ffmpeg hands on with a frame. None may refer to golden or altref or replace them,
# so both stay the keyframe. Frames of the base layer alone become the last frame.
_NO_REF_GOLDEN, _NO_REF_ALTREF = 1 << 17, 1 << 21
_NO_UPDATE_LAST, _NO_UPDATE_GOLDEN, _NO_UPDATE_ALTREF = 1 << 18, 1 << 22, 1 << 23
_BASE_FLAGS = _NO_REF_GOLDEN | _NO_REF_ALTREF | _NO_UPDATE_GOLDEN | _NO_UPDATE_ALTREF
_UPPER_FLAGS = _BASE_FLAGS | _NO_UPDATE_LAST


@dataclass(frozen=True)
class EncodeOptions:
    """How frames become packets, and what is taken for a video at all.

    ``resize`` is "WxH", "short:N" (the shorter side becomes N, the longer one keeps the ratio of the stored picture;
    both even) or "none" (as it is; even for vp9 and h264, which leaves out a row or column by scaling). ``fps`` is
    in frames per second; None takes the source's frames as they are. ``gop`` (packets from keyframe to keyframe, 1
    for mjpeg, else 1 to 256), ``quality`` (mjpeg 2 to 31, vp9 0 to 63, h264 1 to 51; the lowest is best) and
    ``layers`` are the codec's own defaults where they are None, and never None once made. ``layers`` is 3 or 2
    for vp9 in temporal layers, of which a frame needs few others (see ``back_of``; the GOP is then a multiple of 4 in 3
    layers, of 8 in 2), else 1. ``timeout`` is in seconds for each video.

    Sources beyond ``largest_picture`` (pixels), ``longest`` (seconds) or ``most_frames`` are not taken.

    Raises UsageError where a value is none of these.
    """

    resize: str = "320x256"
    fps: float | None = None
    codec: str = "mjpeg"
    gop: int | None = None
    quality: int | None = None
    layers: int | None = None
    timeout: float = 900.0
    largest_picture: int = 8192 * 8192
    longest: float = 4 * 3600.0
    most_frames: int = 2_000_000

    def __post_init__(self) -> None:
        if self.codec not in _CODECS:
            raise UsageError(f"there is no codec '{self.codec}': use {', '.join(_CODECS)}")
        of = _CODECS[self.codec]
        gop, layers = self.gop, self.layers
        if layers is None:
            layers = _LAYERS if self.codec == "vp9" and (gop is None or gop % LAYER_PERIODS[_LAYERS] == 0) else 1
        if gop is None:
            gop = _LAYERED_GOP if layers in LAYER_PERIODS else of.gop
        object.__setattr__(self, "gop", gop)
        object.__setattr__(self, "layers", layers)
        object.__setattr__(self, "quality", of.quality if self.quality is None else self.quality)
        assert self.gop is not None and self.quality is not None
        if not of.best <= self.quality <= of.worst:
            raise UsageError(f"quality {self.quality} is not from {of.best} (best) to {of.worst}, as {self.codec} has")
        if layers != 1 and layers not in LAYER_PERIODS:
            raise UsageError(f"there are no {layers} layers: use 1, {' or '.join(map(str, LAYER_PERIODS))}")
        if layers != 1 and self.codec != "vp9":
            raise UsageError(f"{layers} layers are not for {self.codec}: use vp9, or 1")
        if self.codec == "mjpeg" and self.gop != 1:
            raise UsageError(f"gop {self.gop} is not for mjpeg, in which every packet is a keyframe: use 1")
        if not 1 <= self.gop <= 256:
            raise UsageError(f"gop {self.gop} is not from 1 to 256")
        if layers != 1 and self.gop % LAYER_PERIODS[layers]:
            period = LAYER_PERIODS[layers]
            raise UsageError(f"gop {self.gop} is no multiple of {period}, as {layers} layers need: change either")
        if self.fps is not None and not 0 < self.fps <= _LARGEST_FPS:
            raise UsageError(f"fps {self.fps} is not above 0 and up to {_LARGEST_FPS}")
        if not 0 < self.timeout < math.inf:
            raise UsageError(f"timeout {self.timeout} is no number of seconds above 0")
        self._check_resize()

    def _check_resize(self) -> None:
        sides = self._sides()
        if self.resize != "none" and not sides:
            raise UsageError(f"resize '{self.resize}' is none of WxH, short:N and none, as in 320x256 and short:256")
        if not all(_SMALLEST_SIDE <= side <= _LARGEST_SIDE for side in sides):
            raise UsageError(f"resize '{self.resize}' is not from {_SMALLEST_SIDE} to {_LARGEST_SIDE} pixels")
        if (self.resize.startswith("short:") or self.codec != "mjpeg") and any(side % 2 for side in sides):
            raise UsageError(f"resize '{self.resize}' is odd, which mjpeg alone takes, and with WxH: use even sizes")

    def _sides(self) -> tuple[int, ...]:
        """The numbers in ``resize``: two of WxH, one of short:N, none of anything else."""
        found = re.fullmatch(r"short:([0-9]{1,9})|([0-9]{1,9})x([0-9]{1,9})", self.resize)
        return tuple(int(side) for side in found.groups() if side) if found else ()

    @property
    def settings(self) -> dict[str, Any]:
        """What dataset.json says of them.

        A time limit changes no byte; and a dataset that was begun when there were no layers names none.
        """
        settings = {name: value for name, value in asdict(self).items() if name != "timeout"}
        if self.layers == 1:
            del settings["layers"]
        return settings

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> EncodeOptions:
        """Those that a dataset was made with, of the ``options`` of its dataset.json."""
        named = {field.name for field in fields(cls)}
        return cls(**{"layers": 1, **{name: value for name, value in settings.items() if name in named}})

    def back_of(self, number: int) -> int:
        """How many packets back the reference of packet ``number`` of a video lies; 0 for a keyframe.

        In 3 layers the frames 0, 4, 8, ... of a GOP refer to each other, 2, 6, ... to the one of those before them,
        and the others to the frame before them. In 2 layers the frames 0, 8, 16, ... refer to each other, and the
        others to the one of those before them.
        """
        assert self.gop is not None and self.layers is not None
        number %= self.gop
        return int(number > 0) if self.layers == 1 else layered_back(number, self.layers)

    @property
    def fixed_size(self) -> tuple[int, int] | None:
        """Width and height of every frame if ``resize`` is "WxH", else None: it depends on the video."""
        sides = self._sides()
        return (sides[0], sides[1]) if len(sides) == 2 else None

    def size_of(self, width: int, height: int) -> tuple[int, int]:
        """Width and height of the frames that come of an upright picture of a size."""
        sides = self._sides()
        if len(sides) == 2:
            return sides[0], sides[1]
        if sides:
            shorter, longer = min(width, height), max(width, height)
            side = 2 * round(longer * sides[0] / shorter / 2)
            return (sides[0], side) if width < height else (side, sides[0])
        if self.codec == "mjpeg":
            return width, height
        return max(2, width // 2 * 2), max(2, height // 2 * 2)


@dataclass(frozen=True)
class Cut:
    """The frames to take of a source: those shown at ``first`` or later and before ``end``, in ticks of ``unit`` s.

    ``seek`` is a time of the source, in seconds, from which on ffmpeg can decode them; None is its beginning. In an
    ``ordered`` source no frame of the cut comes behind one that is shown after it, so that ffmpeg can end there.
    """

    unit: Fraction
    first: int
    end: int
    seek: float | None = None
    ordered: bool = False


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
        said = messages(run(command("mjpeg", EncodeOptions(), (320, 256), Fraction(25))).stderr.splitlines())
    except (OSError, subprocess.SubprocessError) as error:
        raise UsageError(f"{executable()} does not run as ffmpeg: {error}") from None
    if "Option not found" in said:
        raise UsageError(f"{executable()} {words[2]} is too old, 5.1 is needed: it says {said}")
    why = (
        "V4D_FFMPEG names it"
        if os.environ.get("V4D_FFMPEG")
        else "that of imageio-ffmpeg; V4D_FFMPEG would name another"
    )
    _LOG.info("ffmpeg %s, %s: %s", words[2], executable(), why)
    return words[2]


def messages(log: Iterable[bytes]) -> str:
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


def command(
    container_format: str,
    options: EncodeOptions,
    size: tuple[int, int],
    rate: Fraction,
    *,
    cut: Cut | None = None,
    picture_rate: int = 0,
) -> list[str]:
    """The ffmpeg command line: a file as standard input, one thread, one packet per frame whatever the timestamps.

    ``size`` is the width and height of the frames and ``rate`` the packets per second that a compact file claims.
    ``picture_rate`` is that of a stream of pictures, which has no times of its own.

    The frames are numbered anew, since the encoder refuses the timestamps that some sources have: where these choose
    no frames, as they are decoded, for a filter would begin again when the size changes midway. Where the format is
    given as yuvj420p, ffmpeg 7.0 leaves the colour matrix as it was.
    """
    codec = _CODECS[options.codec]
    takes: dict[str, Any] = {"threads": 1, "protocol_whitelist": "file", "max_pixels": options.largest_picture}
    if picture_rate:
        takes["framerate"] = picture_rate
    if cut:
        takes["copyts"] = None
        if cut.seek is not None:
            takes |= {"seek_timestamp": 1, "noaccurate_seek": None, "ss": f"{cut.seek:.6f}"}
    # The tick of a JPEG's encoder has no meaning; that of the others is in their files, and in their rate control.
    tick = Fraction(1, 1000) if options.codec == "mjpeg" else 1 / rate
    unit = f"{tick.numerator}/{tick.denominator}"
    numbering = []
    if cut or options.fps is not None:
        numbering = [f"settb={unit}", "setpts=N"]
    else:
        takes["r"] = f"{tick.denominator}/{tick.numerator}"
    gives = codec.arguments | {codec.quality_option: options.quality, "threads": 1, "filter_threads": 1}
    if options.codec != "mjpeg":
        gives |= {"g": options.gop, "keyint_min": options.gop}
    filters = [*_chosen(options, cut), *_picture(size, codec.levels), *numbering]
    if options.layers != 1:
        gives |= _INDEPENDENT
    if options.layers == 3:
        gives |= _IN_3_LAYERS
    if options.layers == 2:
        filters += _flagged(tick)
    stream = ffmpeg.input("file:/dev/stdin", format=container_format.partition(",")[0], **takes).output(
        "pipe:1",
        map="0:V:0",
        vf=",".join(filters),
        fps_mode="passthrough",
        enc_time_base=unit,
        flags="+bitexact",
        map_metadata=-1,
        **gives,
    )
    line: list[str] = stream.global_args("-nostdin", "-hide_banner", "-loglevel", "repeat+error").compile(
        cmd=executable()
    )
    return line


def _chosen(options: EncodeOptions, cut: Cut | None) -> list[str]:
    """The filters that choose frames: those of the cut, then by the rate asked for."""
    filters = []
    if cut:
        filters.append(f"settb={cut.unit.numerator}/{cut.unit.denominator}")
        by_order, by_time = f"trim=start_pts={cut.first}:end_pts={cut.end}", f"gte(pts,{cut.first})*lt(pts,{cut.end})"
        filters.append(by_order if cut.ordered else f"select='{by_time}'")
    if options.fps is not None:
        rate = Fraction(options.fps).limit_denominator(100_000)
        # From the first frame on, so that frame k is the one shown k / fps seconds after it.
        filters += ["setpts=PTS-STARTPTS", f"fps={rate.numerator}/{rate.denominator}:round=near"]
    return filters


def _flagged(tick: Fraction) -> list[str]:
    """The filters that tell the encoder which frames are of the base layer of 2.

    By their times, a tick after each other, which go on where a filter's own count would begin again: when the size
    changes midway. (Where frames are chosen, these begin again too.)
    """
    place = f"mod(round(t*{tick.denominator}/{tick.numerator}),{LAYER_PERIODS[2]})"
    return [
        f"metadata=mode=add:key=vp8-flags:value={flags}:enable='{test}({place},0)'"
        for test, flags in (("eq", _BASE_FLAGS), ("gt", _UPPER_FLAGS))
    ]


def _picture(size: tuple[int, int], levels: str) -> list[str]:
    width, height = size
    return [f"scale={width}:{height}:flags={_SCALER}:out_color_matrix=bt601:out_range={levels}", "format=yuv420p"]
