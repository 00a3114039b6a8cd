"""Programs that are no ffmpeg, and ffmpegs that end otherwise than they should."""

import io
import os
import signal

import pytest

from preprocess import ffmpeg
from preprocess.encode import encode
from preprocess.errors import DataError, UsageError
from preprocess.ffmpeg import EncodeOptions
from preprocess.sources import Unreadable

SMALL = EncodeOptions("64x48")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_ffmpeg_killed_by_somebody_rejects_no_video(video, program, number):
    source = video("h264.mp4")
    program(f"kill -{number.value} $$")
    with pytest.raises(DataError, match=r"ffmpeg was killed while it read .*h264\.mp4"):
        encode(source, SMALL, io.BytesIO())


def test_ffmpeg_asked_to_end_rejects_no_video(video, program, tmp_path):
    """It handles the signal: writes what it has, and exits with a code of its own."""
    source = video("long.mp4")
    program(f'echo $$ > {tmp_path}/pid; exec {ffmpeg.executable()} "$@"')

    class Killer(io.BytesIO):
        def write(self, packet):
            if not self.tell():
                os.kill(int((tmp_path / "pid").read_text()), signal.SIGTERM)
            return super().write(packet)

    with pytest.raises(DataError, match="ffmpeg was killed while it read"):
        encode(source, EncodeOptions("1024x1024"), Killer())


def test_ffmpeg_that_crashes_rejects_the_video(video, program):
    source = video("h264.mp4")
    program("kill -SEGV $$")
    with pytest.raises(Unreadable, match=r"^ffmpeg crashed: SIGSEGV"):
        encode(source, SMALL, io.BytesIO())


def test_ffmpeg_that_writes_something_else(video, program):
    source = video("h264.mp4")
    program("echo Loading module")
    with pytest.raises(UsageError, match="does not write what it was asked for"):
        encode(source, SMALL, io.BytesIO())


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("true", "is no ffmpeg"),
        ("echo some other program", "is no ffmpeg"),
        ("printf '\\377\\376 x y'", "is no ffmpeg"),
        ("exec sleep 0.01", "is no ffmpeg"),
        ("echo ffmpeg version 4.4; echo Option not found >&2", r"4\.4 is too old, 5\.1 is needed"),
    ],
)
def test_program_that_is_no_ffmpeg(program, script, message):
    program(script)
    with pytest.raises(UsageError, match=message):
        ffmpeg.version()


def test_program_that_cannot_start(program, tmp_path):
    program("")
    (tmp_path / "ffmpeg").write_bytes(b"\x7fELF and no more")
    with pytest.raises(UsageError, match="does not run as ffmpeg"):
        ffmpeg.version()


def test_ffmpeg_that_does_not_exist(program, monkeypatch):
    program("true")
    monkeypatch.setenv("V4D_FFMPEG", "/nowhere/ffmpeg")
    with pytest.raises(UsageError, match="V4D_FFMPEG names /nowhere/ffmpeg"):
        ffmpeg.executable()


def test_version_is_that_of_the_program(program):
    program("echo ffmpeg version 7.1-test Copyright")
    assert ffmpeg.version() == "7.1-test"
