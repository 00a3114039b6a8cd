"""Packets of one file in memory: those that preprocessing writes, and no others."""

import io
from fractions import Fraction

import numpy as np
import pytest

from preprocess.encode import encode
from preprocess.errors import Interrupted
from preprocess.ffmpeg import EncodeOptions
from preprocess.index import packet_offsets
from preprocess.single_files import SingleFileReader, UnreadableFile

# One has fewer frames than its container says: others are hidden.
AWKWARD = (
    "h264.mp4",
    "vfr.mkv",
    "edit_list.mp4",
    "interlaced.ts",
    "vp8_alt_ref.webm",
    "turned_90.mp4",
)
OPTIONS = [
    EncodeOptions("64x48", quality=9),
    EncodeOptions("short:32", fps=12.5),
    EncodeOptions("short:32", codec="vp9", gop=8),
    EncodeOptions("48x32", codec="h264", gop=5),
]


def every_third(back):
    return range(1, len(back), 3) if len(back) > 1 else [0]


@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: f"{options.codec}-{options.resize}")
def test_packets_are_those_of_preprocessing(options, video):
    reader = SingleFileReader(options.settings)
    assert reader.codec == options.codec and reader.size == options.fixed_size
    for name in AWKWARD:
        sink = io.BytesIO()
        _, whole = encode(video(name), options, sink)
        found = reader.read(video(name), every_third)
        row = found.row
        assert row.key == str(video(name)) and row.frames == len(whole.sizes)
        assert (row.width, row.height, row.start, row.end) == (whole.width, whole.height, whole.start, whole.end)
        assert Fraction(row.fps_num, row.fps_den) == whole.fps
        for column, wanted in zip(("bytes", "crc32", "back"), (whole.sizes, whole.crc32, whole.back), strict=True):
            np.testing.assert_array_equal(getattr(row, f"packet_{column}"), wanted)
        offsets = packet_offsets(options.codec, whole.sizes)
        content = sink.getvalue()
        wanted = {n: content[offsets[n] : offsets[n] + whole.sizes[n]] for n in every_third(whole.back)}
        assert {number: packet.tobytes() for number, packet in found.packets.items()} == wanted


def test_the_container_is_believed_once_at_most(video, monkeypatch):
    """Where it says another number of frames than there are, the file is gone through again, and not else."""
    runs = []

    def counting(*arguments, **options):
        runs.append(arguments[0].name)
        return encode(*arguments, **options)

    monkeypatch.setattr("preprocess.single_files.encode", counting)
    asked = []

    def wanted(back):
        asked.append(len(back))
        return [0]

    for name in ("h264.mp4", "vp8_alt_ref.webm"):
        SingleFileReader(None).read(video(name), wanted)
    SingleFileReader(EncodeOptions("32x32", fps=12.5).settings).read(video("h264.mp4"), wanted)
    assert runs == ["h264.mp4", "vp8_alt_ref.webm", "vp8_alt_ref.webm", "h264.mp4"]
    assert asked == [30, 127, 120, 13]


@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: f"{options.codec}-{options.resize}")
def test_options_are_found_again(options):
    assert EncodeOptions.from_settings({"v4d": "0", "source": "x", **options.settings}) == options


def test_layers_that_are_not_named_are_none():
    """A dataset of VP9 that was begun when there were no layers."""
    options = EncodeOptions(codec="vp9", gop=8, layers=1)
    assert "layers" not in options.settings
    assert EncodeOptions.from_settings(options.settings) == options


def test_as_jpegs_is_the_best_quality_of_the_same_size(video):
    options = EncodeOptions("short:32", codec="h264")
    reader = SingleFileReader(options.settings, as_jpegs=True)
    assert reader.codec == "mjpeg"
    found, best = reader.read(video("h264.mp4"), every_third), io.BytesIO()
    encode(video("h264.mp4"), EncodeOptions("short:32", quality=2), best)
    assert found.packets[1].tobytes() in best.getvalue()


def test_what_is_no_video_is_named(video, tmp_path):
    for name in ("secret.mp4", "gone.mp4"):
        path = tmp_path / name
        if name == "secret.mp4":
            path.write_bytes(video("h264.mp4").read_bytes()[:3000])
        with pytest.raises(UnreadableFile, match=rf"{path}: (not readable as a video|cannot be opened|truncated)"):
            SingleFileReader(None).read(path, every_third)


def test_it_stops_when_it_is_asked_to(video):
    with pytest.raises(Interrupted):
        SingleFileReader(None).read(video("long.mp4"), every_third, lambda: True)
