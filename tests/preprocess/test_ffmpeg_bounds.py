"""Options that mean nothing, and sources that would take too much."""

import io
import json
import os
import re
import signal
import struct
import subprocess
import sys
import threading
import time
import zlib
from contextlib import suppress
from dataclasses import asdict, replace

import pytest

from preprocess import encode as encode_module
from preprocess import probe
from preprocess.encode import encode
from preprocess.errors import Interrupted, UsageError
from preprocess.ffmpeg import EncodeOptions, executable
from preprocess.probe import Limit, examine
from preprocess.sources import Unreadable, opened

SMALL = EncodeOptions("64x48")


@pytest.fixture
def large(tmp_path, run_ffmpeg):
    """A function: a video of one black picture of a width and height and bits per pixel."""

    def make(width, height, bits):
        packer, row = zlib.compressobj(1), bytes(1 + width * bits // 8)
        body = b"".join([*(packer.compress(row) for _ in range(height)), packer.flush()])
        png = b"\x89PNG\r\n\x1a\n"
        header = struct.pack(">IIBBBBB", width, height, bits, 0, 0, 0, 0)
        for kind, content in ((b"IHDR", header), (b"IDAT", body), (b"IEND", b"")):
            png += struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        (tmp_path / "large.png").write_bytes(png)
        run_ffmpeg("-i", tmp_path / "large.png", "-c", "copy", tmp_path / "large.mkv")
        return tmp_path / "large.mkv"

    return make


@pytest.mark.parametrize(
    ("values", "quality", "gop", "layers"),
    [
        ({"codec": "mjpeg"}, 4, 1, 1),
        ({"codec": "vp9"}, 37, 32, 3),
        ({"codec": "vp9", "layers": 1}, 37, 8, 1),
        ({"codec": "vp9", "layers": 2}, 37, 32, 2),
        ({"codec": "vp9", "gop": 8}, 37, 8, 3),
        ({"codec": "vp9", "gop": 10}, 37, 10, 1),
        ({"codec": "h264"}, 23, 8, 1),
    ],
)
def test_defaults_are_written_down(values, quality, gop, layers):
    options = EncodeOptions(**values)
    assert (options.quality, options.gop, options.layers) == (quality, gop, layers)
    assert EncodeOptions(**json.loads(json.dumps(asdict(options)))) == options
    assert replace(options, resize="short:64").quality == quality


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"codec": "av1"}, "there is no codec 'av1': use mjpeg, vp9, h264"),
        ({"quality": 1}, "quality 1 is not from 2 (best) to 31, as mjpeg has"),
        ({"quality": 32}, "quality 32 is not from 2 (best) to 31, as mjpeg has"),
        ({"codec": "vp9", "quality": 64}, "quality 64 is not from 0 (best) to 63, as vp9 has"),
        ({"codec": "h264", "quality": 52}, "quality 52 is not from 1 (best) to 51, as h264 has"),
        ({"codec": "h264", "quality": 0}, "quality 0 is not from 1 (best) to 51, as h264 has"),
        ({"gop": 8}, "gop 8 is not for mjpeg, in which every packet is a keyframe: use 1"),
        ({"codec": "vp9", "gop": 0}, "gop 0 is not from 1 to 256"),
        ({"codec": "h264", "gop": 257}, "gop 257 is not from 1 to 256"),
        ({"codec": "vp9", "layers": 4}, "there are no 4 layers: use 1, 2 or 3"),
        ({"codec": "vp9", "layers": 2, "gop": 12}, "gop 12 is no multiple of 8, as 2 layers need: change either"),
        ({"codec": "h264", "layers": 2}, "2 layers are not for h264: use vp9, or 1"),
        ({"codec": "vp9", "layers": 3, "gop": 10}, "gop 10 is no multiple of 4, as 3 layers need: change either"),
        ({"codec": "h264", "layers": 3}, "3 layers are not for h264: use vp9, or 1"),
        ({"layers": 3}, "3 layers are not for mjpeg: use vp9, or 1"),
        ({"fps": 0.0}, "fps 0.0 is not above 0 and up to 240"),
        ({"fps": float("nan")}, "fps nan is not above 0 and up to 240"),
        ({"fps": 241.0}, "fps 241.0 is not above 0 and up to 240"),
        ({"timeout": 0.0}, "timeout 0.0 is no number of seconds above 0"),
        ({"timeout": float("inf")}, "timeout inf is no number of seconds above 0"),
        *(
            ({"resize": text}, f"resize '{text}' is none of WxH, short:N and none, as in 320x256 and short:256")
            for text in (
                "",
                "320",
                "x",
                "320x",
                "x256",
                "short:",
                "short:abc",
                "short:-64",
                "320x256x3",
                "None",
                "6 4x48",
            )
        ),
        ({"resize": "15x64"}, "resize '15x64' is not from 16 to 4096 pixels"),
        ({"resize": "64x4097"}, "resize '64x4097' is not from 16 to 4096 pixels"),
        ({"resize": "short:4098"}, "resize 'short:4098' is not from 16 to 4096 pixels"),
        ({"resize": "short:255"}, "resize 'short:255' is odd, which mjpeg alone takes, and with WxH: use even sizes"),
        ({"resize": "65x48", "codec": "h264"}, "resize '65x48' is odd, which mjpeg alone takes, and with WxH: use"),
    ],
)
def test_options_that_mean_nothing(values, says):
    with pytest.raises(UsageError, match="^" + re.escape(says)):
        EncodeOptions(**values)


@pytest.mark.parametrize(
    ("resize", "codec", "size", "becomes"),
    [
        ("320x256", "mjpeg", (1920, 1080), (320, 256)),
        ("321x257", "mjpeg", (1920, 1080), (321, 257)),
        ("short:256", "mjpeg", (1920, 1080), (456, 256)),
        ("short:256", "vp9", (1080, 1920), (256, 456)),
        ("short:256", "mjpeg", (100, 100), (256, 256)),
        ("none", "mjpeg", (175, 91), (175, 91)),
        ("none", "h264", (175, 91), (174, 90)),
        ("none", "vp9", (1, 1), (2, 2)),
    ],
)
def test_size_that_comes_of_a_size(resize, codec, size, becomes):
    assert EncodeOptions(resize, codec=codec).size_of(*size) == becomes


@pytest.mark.parametrize("codec", ["mjpeg", "vp9", "h264"])
@pytest.mark.parametrize(
    ("name", "resize", "size"),
    [
        ("odd_size.mkv", "none", (175, 91)),
        ("odd_size.mkv", "short:48", (92, 48)),
        ("turned_90.mp4", "none", (96, 64)),
        ("turned_90.mp4", "short:32", (48, 32)),
        ("turned_180.mov", "short:32", (32, 48)),
        ("size_changes.mkv", "none", (64, 48)),
        ("size_changes.mkv", "short:32", (42, 32)),
        ("size_changes.mkv", "96x80", (96, 80)),
        ("size_changes_turned.mkv", "none", (48, 64)),
    ],
)
def test_frames_have_the_size_that_was_said(video, run_ffmpeg, tmp_path, name, resize, size, codec):
    if resize == "none" and codec != "mjpeg":
        size = (size[0] // 2 * 2, size[1] // 2 * 2)
    path = tmp_path / ("it.mjpeg" if codec == "mjpeg" else "it.ivf")
    with path.open("wb") as sink:
        found, packets = encode(video(name), EncodeOptions(resize, codec=codec), sink)
    assert (packets.width, packets.height) == size
    assert len(packets.sizes) == found.packets
    if codec == "h264":
        return
    raw = run_ffmpeg("-i", path, "-fps_mode", "passthrough", "-pix_fmt", "gray", "-f", "rawvideo", "-")
    assert len(raw) == size[0] * size[1] * found.packets


@pytest.mark.parametrize(
    ("resize", "says"), [("64x48", "too large: a picture of more than 67108864 pixels"), ("none", "no size: ")]
)
def test_source_with_large_pictures(large, resize, says):
    with pytest.raises(Unreadable, match=f"^{says}"):
        encode(large(16384, 8192, 1), EncodeOptions(resize), io.BytesIO())


@pytest.mark.parametrize("resize", ["64x48", "none", "short:64"])
def test_source_larger_than_asked_for(video, resize):
    options = EncodeOptions(resize, largest_picture=64 * 48 - 1)
    for name in ("h264.mp4", "h264.ts", "ffv1.mkv", "animated.gif"):
        with pytest.raises(Unreadable, match=r"^(too large: |no size: )"):
            encode(video(name), options, io.BytesIO())
        encode(video(name), replace(options, largest_picture=64 * 48), io.BytesIO())


def test_pictures_larger_than_the_container_says(video, tmp_path):
    """Matroska says a size of its own, before any picture does."""
    content = bytearray(video("h264.mkv").read_bytes())
    width, height = content.index(b"\xb0\x81\x40"), content.index(b"\xba\x81\x30")
    content[width + 2], content[height + 2] = 16, 16
    (tmp_path / "it.mkv").write_bytes(content)
    with pytest.raises(Unreadable, match=r"^(too large: |no size: )"):
        encode(tmp_path / "it.mkv", EncodeOptions("64x48", largest_picture=64 * 48 - 1), io.BytesIO())


@pytest.mark.parametrize("resize", ["64x48", "none"])
def test_pictures_that_become_large_midway(video, resize):
    with pytest.raises(Unreadable, match=r"^too large: a picture of more than 3072 pixels") as caught:
        encode(video("size_grows.mkv"), EncodeOptions(resize, largest_picture=64 * 48), io.BytesIO())
    assert "320x240" in caught.value.ffmpeg_message


def test_long_source(video):
    with pytest.raises(Unreadable) as caught:
        encode(video("a_day_later.mkv"), SMALL, io.BytesIO())
    assert caught.value.reason == "too large: 86401 s long, at most 14400"
    with pytest.raises(Unreadable, match=r"^too large: 4 s long, at most 2$"):
        encode(video("long.mp4"), replace(SMALL, longest=2.0), io.BytesIO())


def test_many_frames(video):
    with pytest.raises(Unreadable, match=r"^too large: more than 29 frames$"):
        encode(video("h264.mp4"), replace(SMALL, most_frames=29), io.BytesIO())
    encode(video("h264.mp4"), replace(SMALL, most_frames=30), io.BytesIO())


def test_thin_picture_that_would_become_long(run_ffmpeg, tmp_path):
    source = tmp_path / "thin.mkv"
    run_ffmpeg("-f", "lavfi", "-i", "testsrc2=size=2048x16", "-frames:v", 1, "-c:v", "ffv1", source)
    with pytest.raises(Unreadable, match=r"^too large: 131072x1024 pixels when resized, at most 16384 wide or high"):
        encode(source, EncodeOptions("short:1024"), io.BytesIO())


def test_memory_of_ffmpeg(video, large, monkeypatch):
    monkeypatch.setattr(encode_module, "_MOST_MEMORY", 300 << 20)
    with pytest.raises(Unreadable, match=r"^too large: ffmpeg needs more than"):
        encode(large(16384, 8192, 8), replace(SMALL, largest_picture=1 << 30), io.BytesIO())
    encode(video("h264.mp4"), SMALL, io.BytesIO())


def test_bytes_that_come_out(video, monkeypatch):
    monkeypatch.setattr(encode_module, "_LARGEST_OUTPUT", 10_000)
    sink = io.BytesIO()
    with pytest.raises(Unreadable, match=r"^too large: more than .* of packets"):
        encode(video("h264.mp4"), SMALL, sink)
    assert len(sink.getvalue()) <= 10_000


def test_probe_looks_at_the_clock_and_at_who_asks_to_stop(video):
    with opened(video("long.mp4")) as descriptor:
        with pytest.raises(Unreadable, match=r"^not done after 1e-09 s"):
            examine(descriptor, SMALL, None, Limit(1e-9))
        with pytest.raises(Interrupted):
            examine(descriptor, SMALL, None, Limit(60, lambda: True))


def test_a_source_that_comes_too_slowly_is_not_taken_for_no_video(video, monkeypatch):
    """Also where nobody looks at the limit meanwhile, as if the time were a suspended run's."""
    monkeypatch.setattr(probe, "_LONGEST_BETWEEN_LOOKS", 0.0)
    content, (reading, writing) = video("h264.ts").read_bytes(), os.pipe()

    def write_slowly():
        with open(writing, "wb", buffering=0) as pipe, suppress(BrokenPipeError):
            for at in range(0, len(content), 188):
                pipe.write(content[at : at + 188])
                time.sleep(0.01)

    writer = threading.Thread(target=write_slowly)
    writer.start()
    with pytest.raises(Unreadable, match=r"^not done after 0\.05 s"):
        examine(reading, SMALL, None, Limit(0.05))
    os.close(reading)
    writer.join()


_SUSPENDED = """
import sys, time
from preprocess import probe
probe._LONGEST_BETWEEN_LOOKS = 0.2
limit, last = probe.Limit(1.5), time.monotonic()
print("begun", flush=True)
while (now := time.monotonic()) < last + 1:
    last = now
    time.sleep(0.01)
print("over" if limit.due() else "goes on")
while not limit.due():
    time.sleep(0.01)
"""


def test_time_in_which_a_run_is_suspended_does_not_count():
    with subprocess.Popen([sys.executable, "-c", _SUSPENDED], stdout=subprocess.PIPE, text=True) as process:
        process.stdout.readline()
        process.send_signal(signal.SIGSTOP)
        time.sleep(2.1)
        process.send_signal(signal.SIGCONT)
        assert process.stdout.read() == "goes on\n"
    # Some time later it is over all the same.
    assert process.returncode == 0


def test_encoder_that_ffmpeg_does_not_have(video, program):
    program(f'exec {executable()} $(for word in "$@"; do echo "$word"; done | sed s/libvpx-vp9/libnothing/)')
    with pytest.raises(UsageError, match=r"cannot write this codec: .*Unknown encoder 'libnothing'"):
        encode(video("h264.mp4"), EncodeOptions("64x48", codec="vp9"), io.BytesIO())
