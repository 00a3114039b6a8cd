"""Cuts of a video and frame rates: just the frames that decoding all and looking at their times would give."""

import io
import math
from fractions import Fraction

import av
import pytest

from preprocess import encode as encode_module
from preprocess.encode import encode
from preprocess.ffmpeg import Cut, EncodeOptions, executable
from preprocess.packets import jpeg_packets
from preprocess.sources import Unreadable

# Alike enough to tell frames apart, at any size.
SMALL = EncodeOptions("64x48", quality=2)


def jpegs(source, options=SMALL, **arguments):
    sink = io.BytesIO()
    found, packets = encode(source, options, sink, **arguments)
    return [bytes(packet) for packet in jpeg_packets(io.BytesIO(sink.getvalue()))], packets, found


def times_of(source):
    """When each frame is shown, in seconds after the first, by decoding all of them."""
    with av.open(str(source)) as container:
        stream = container.streams.video[0]
        pts = [frame.pts for frame in container.decode(stream)]
        return [(at - min(pts)) * stream.time_base for at in pts]


CUTS = [(0.0, 0.5), (0.4, 0.6), (0.5, 0.9), (0.51, 0.52 + 1 / 30), (0.7, 1.0), (0.9, 5.0), (1 / 3, 2 / 3), (0.0, 9.0)]
# h264.mp4 has B frames and a keyframe each 12 frames; open_gop.mkv ones with frames before them that need the last.
NAMES = [
    *("h264.mp4", "h264.mkv", "open_gop.mkv", "refresh.mkv", "refresh.mp4", "fragmented.mp4", "edit_list.mp4"),
    *("starts_late.mkv", "starts_late.mp4", "vfr.mp4", "vfr.mkv", "hevc.mp4", "mpeg4.avi", "h264.ts", "mpeg2.mpg"),
    *("flv1.flv", "animated.gif", "wmv2.wmv", "audio_longer.mp4", "h264.flv", "mpeg2_gop.mkv", "hevc_gop.mp4"),
]


@pytest.mark.parametrize("name", NAMES)
def test_cut_has_the_frames_of_its_time(video, name):
    source = video(name)
    whole, _, found = jpegs(source)
    times = times_of(source)
    assert len(times) == len(whole)
    for start, end in CUTS:
        wanted = [jpeg for jpeg, at in zip(whole, times, strict=True) if start - 1e-9 <= at < end - 1e-9]
        if not wanted:
            with pytest.raises(Unreadable, match=r"^trim: "):
                jpegs(source, trim=(start, end))
            continue
        cut, packets, _ = jpegs(source, trim=(start, end))
        assert cut == wanted, (start, end)
        assert (packets.start, packets.end) == (start, min(end, found.duration))
        assert packets.fps == found.fps


@pytest.mark.parametrize("name", ["long_gops.mp4", "long_gops.mkv", "long_gops.webm"])
def test_cut_of_a_long_video_is_not_read_from_its_beginning(video, name, monkeypatch):
    source = video(name)
    whole, *_ = jpegs(source)
    ways = []
    command = encode_module.command

    def remembered(*arguments, cut, **others):
        ways.append(cut)
        return command(*arguments, cut=cut, **others)

    monkeypatch.setattr(encode_module, "command", remembered)
    for start in range(0, 20, 3):
        cut, *_ = jpegs(source, trim=(start + 0.5, start + 1.5))
        assert cut == whole[start * 10 + 5 : start * 10 + 15]
    # One run for each, and it enters the file no more than two GOPs of a second before.
    assert [cut.ordered for cut in ways] == [True] * 7
    for way in ways[1:]:
        assert way.seek >= float(way.first * way.unit) - 2.5


def test_wrong_way_into_a_video_is_not_taken(video, monkeypatch):
    """Where ffmpeg lands behind the cut's beginning, all is read."""
    source = video("long_gops.mp4")
    whole, *_ = jpegs(source)
    command = encode_module.command
    ways = []

    def astray(*arguments, cut, **others):
        ways.append(cut)
        if cut.ordered:
            cut = Cut(cut.unit, cut.first, cut.end, cut.seek + 4, ordered=True)
        return command(*arguments, cut=cut, **others)

    monkeypatch.setattr(encode_module, "command", astray)
    assert jpegs(source, trim=(12.5, 14.5))[0] == whole[125:145]
    assert [cut.ordered for cut in ways] == [True, False]


@pytest.mark.parametrize(
    ("codec", "back"), [("vp9", [0, 1, 2, 1, 4, 1, 2, 1, 0, 1, 2, 1]), ("h264", [0] + [1] * 7 + [0] + [1] * 3)]
)
def test_cut_of_compact_codecs(video, codec, back):
    sink = io.BytesIO()
    _, packets = encode(video("h264.mp4"), EncodeOptions("64x48", codec=codec, gop=8), sink, trim=(0.5, 0.9))
    assert packets.back.tolist() == back
    assert int.from_bytes(sink.getvalue()[24:28], "little") == 12


@pytest.mark.parametrize(
    ("trim", "reason"),
    [
        ((417.0, 427.0), "trim: starts at 417 s, the video ends at 1.0 s"),
        ((1.0, 2.0), "trim: starts at 1 s, the video ends at 1.0 s"),
        ((0.5, 11.5), "trim: ends at 11.5 s, the video ends at 1.0 s"),
        ((0.5, 0.5), "trim: from 0.5 s to 0.5 s is no time"),
        ((-1.0, 0.5), "trim: from -1 s to 0.5 s is no time"),
        ((0.501, 0.52), "trim: no frame is shown from 0.501 s to 0.52 s"),
        ((float("nan"), 0.5), "trim: from nan s to 0.5 s is no time"),
        ((0.0, float("inf")), "trim: from 0 s to inf s is no time"),
    ],
)
def test_cut_that_lies_elsewhere(video, trim, reason):
    with pytest.raises(Unreadable) as caught:
        jpegs(video("h264.mp4"), trim=trim)
    assert caught.value.reason == reason


def damaged_at(tmp_path, source, number):
    """A copy of a video with a packet's bytes, but for the first ones, overwritten."""
    with av.open(str(source)) as container:
        packet = [packet for packet in container.demux(video=0) if packet.size][number]
        at, size = packet.pos, packet.size
    content = bytearray(source.read_bytes())
    content[at + 6 : at + size] = b"\xa5" * (size - 6)
    copy = tmp_path / f"damaged{source.suffix}"
    copy.write_bytes(content)
    return copy


@pytest.mark.parametrize("name", ["long_gops.mp4", "long_gops.mkv"])
def test_damage_inside_the_cut_and_outside(video, tmp_path, name):
    source = damaged_at(tmp_path, video(name), 120)
    with pytest.raises(Unreadable, match=r"^damaged: \d+ of 200 frames could be decoded"):
        jpegs(source)
    with pytest.raises(Unreadable, match=r"^damaged: \d+ of 30 frames could be decoded"):
        jpegs(source, trim=(11.0, 14.0))
    whole, *_ = jpegs(video(name))
    assert jpegs(source, trim=(2.0, 5.0))[0] == whole[20:50]
    assert jpegs(source, trim=(16.0, 19.0))[0] == whole[160:190]


@pytest.mark.parametrize("name", ["long_gops.mp4", "long_gops.mkv"])
def test_file_that_breaks_off(video, tmp_path, name):
    whole, *_ = jpegs(video(name))
    content = video(name).read_bytes()
    cut_off = tmp_path / name
    cut_off.write_bytes(content[: len(content) // 2])
    for trim in ((1.0, 19.0), (12.0, 13.0), (15.0, 16.0), (18.0, 25.0)):
        with pytest.raises(Unreadable, match=r"^truncated: breaks off"):
            jpegs(cut_off, trim=trim)
    assert jpegs(cut_off, trim=(2.0, 5.0))[0] == whole[20:50]


def nearest(times, rate, count):
    """Which frame is shown at each k / rate by the rule of ffmpeg's fps filter: times rounded to the new ticks."""
    ticks = [math.floor(at * Fraction(str(rate)) + Fraction(1, 2)) for at in times]
    return [max(i for i, tick in enumerate(ticks) if tick <= k) for k in range(count)]


@pytest.mark.parametrize("fps", [5, 10.0, 29.97, 60, 12.5])
@pytest.mark.parametrize(
    "name", ["h264.mp4", "vfr.mp4", "vfr.mkv", "starts_late.mkv", "edit_list.mp4", "long_gops.mkv"]
)
def test_frame_rate(video, name, fps):
    source = video(name)
    whole, *_ = jpegs(source)
    times = times_of(source)
    frames, packets, found = jpegs(source, EncodeOptions("64x48", quality=2, fps=fps))
    assert abs(len(frames) - found.duration * fps) <= 1
    assert abs(float(packets.fps) - fps) < 1e-4
    assert [whole.index(frame) for frame in frames] == nearest(times, fps, len(frames))


def test_frame_rate_of_a_cut(video):
    source = video("long_gops.mp4")
    whole, *_ = jpegs(source)
    frames, packets, _ = jpegs(source, EncodeOptions("64x48", quality=2, fps=5), trim=(12.0, 15.0))
    assert [whole.index(frame) for frame in frames] == list(range(120, 150, 2))
    assert (packets.start, packets.end, packets.fps) == (12.0, 15.0, 5)


def test_slow_pictures_are_repeated(video):
    frames, *_ = jpegs(video("slideshow.mkv"), EncodeOptions("64x48", fps=2))
    assert 20 <= len(frames) <= 32
    assert len(set(frames)) == 3


def test_damage_at_a_frame_rate(video, tmp_path):
    source = damaged_at(tmp_path, video("long_gops.mp4"), 120)
    with pytest.raises(Unreadable, match=r"^damaged: ffmpeg complains about some of 200 frames"):
        jpegs(source, EncodeOptions("64x48", fps=5))


def test_frames_lost_without_a_word_at_a_frame_rate(video, program):
    program(f'exec {executable()} -t 0.5 "$@"')
    with pytest.raises(Unreadable, match=r"^frames lost: 15 at 30/s for 1\.00 s of the source"):
        jpegs(video("h264.mp4"), EncodeOptions("64x48", fps=30))
