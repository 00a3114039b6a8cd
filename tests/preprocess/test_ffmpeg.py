import io
import os
import subprocess
import sys
import zlib
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from preprocess import ffmpeg
from preprocess.encode import encode
from preprocess.errors import Interrupted
from preprocess.ffmpeg import EncodeOptions
from preprocess.packets import jpeg_packets
from preprocess.probe import probe
from preprocess.sources import Unreadable

SMALL = EncodeOptions("64x48")
# Frames that come out of each.
WHOLE = {
    "h264.mp4": 30,
    "moov_last.mp4": 30,
    "h264.mkv": 30,
    "h264.avi": 30,
    "h264.ts": 30,
    "h264.flv": 30,
    "raw.h264": 30,
    "audio_longer.mkv": 30,
    "audio_longer.mp4": 30,
    "audio_longer.avi": 30,
    "fragmented.mp4": 30,
    "edit_list.mp4": 15,
    "starts_late.mkv": 30,
    "interlaced.mp4": 30,
    "interlaced.ts": 30,
    "mpeg2.mpg": 30,
    "hevc.mp4": 30,
    "ten_bit.mp4": 30,
    "vp8_alt_ref.webm": 120,
    "vp9_alt_ref.webm": 120,
    "vp9.ivf": 120,
    "av1.webm": 30,
    "animated.gif": 30,
    "animated.apng": 30,
    "mpeg4.avi": 30,
    "packed_b_frames.avi": 28,
    "wmv2.wmv": 30,
    "flv1.flv": 30,
    "ffv1.mkv": 30,
    "vfr.mp4": 12,
    "vfr.mkv": 12,
    "slideshow.mkv": 3,
    "slideshow.flv": 3,
    "pause_at_the_end.mkv": 4,
    "times_go_back.mkv": 30,
    "times_repeat.nut": 30,
    "one_frame.mp4": 1,
    "odd_size.mkv": 30,
    "latin1_title.avi": 30,
}


def encoded(source, options=SMALL):
    """The JPEGs of a source."""
    sink = io.BytesIO()
    _, packets = encode(source, options, sink)
    ends = np.cumsum(packets.sizes)
    assert len(sink.getvalue()) == ends[-1]
    jpegs = [sink.getvalue()[end - size : end] for end, size in zip(ends, packets.sizes, strict=True)]
    assert [zlib.crc32(jpeg) for jpeg in jpegs] == packets.crc32.tolist()
    return jpegs


def decoded(jpeg, pixels="rgb24"):
    with av.open(io.BytesIO(jpeg), format="mjpeg") as container:
        return next(container.decode(video=0)).to_ndarray(format=pixels).astype(np.float64)


def changed(tmp_path, source, change):
    """A copy of a file with its bytes changed by a function of a bytearray."""
    content = bytearray(source.read_bytes())
    copy = tmp_path / source.name
    copy.write_bytes(change(content) or content)
    return copy


@pytest.mark.parametrize(("name", "frames"), WHOLE.items())
def test_every_shown_frame_becomes_a_packet(video, name, frames):
    source = video(name)
    if name == "latin1_title.avi":
        source.write_bytes(source.read_bytes().replace(b"caf@", b"caf\xe9"))
    assert len(encoded(source)) == frames


def test_packets_that_show_nothing_are_no_loss(video):
    assert probe(video("vp8_alt_ref.webm")).packets > WHOLE["vp8_alt_ref.webm"]


def test_probe_of_plain_video(video):
    found = probe(video("audio_longer.mkv"))
    assert (found.packets, found.fps, found.duration) == (30, Fraction(30), pytest.approx(1.0))


@pytest.mark.parametrize("name", ["h264.mp4", "h264.mkv", "vp9_alt_ref.webm", "mpeg4.avi", "flv1.flv", "vp9.ivf"])
@pytest.mark.parametrize("share", [0.6, 0.75, 0.9])
def test_broken_off_file_is_truncated(video, tmp_path, name, share):
    with pytest.raises(Unreadable, match=r"^truncated: breaks off"):
        encode(changed(tmp_path, video(name), lambda b: b[: int(len(b) * share)]), SMALL, io.BytesIO())


def test_broken_off_before_its_index(video, tmp_path):
    with pytest.raises(Unreadable, match=r"^not readable as a video"):
        probe(changed(tmp_path, video("moov_last.mp4"), lambda b: b[: len(b) // 2]))


def test_broken_off_transport_stream_is_a_shorter_one(video, tmp_path):
    cut = changed(tmp_path, video("h264.ts"), lambda b: b[: len(b) // 188 // 2 * 188])
    assert 0 < len(encoded(cut)) < 30


def overwrite_with_0xa5(start, count):
    def change(content):
        at = int(len(content) * start)
        content[at : at + count] = b"\xa5" * count

    return change


def test_packet_that_does_not_decode_is_damage(video, tmp_path):
    source = changed(tmp_path, video("moov_last.mp4"), overwrite_with_0xa5(0.44, 200))
    with pytest.raises(Unreadable, match=r"^damaged: \d+ of 30 frames could be decoded") as caught:
        encode(source, SMALL, io.BytesIO())
    assert caught.value.ffmpeg_message
    assert "0x" not in caught.value.ffmpeg_message


def test_lost_frame_with_a_complaint_is_damage(video, tmp_path):
    lost = 0
    for start in np.arange(0.6, 0.9, 0.04):
        source = changed(tmp_path, video("packed_b_frames.avi"), overwrite_with_0xa5(start, 8))
        with source.open("rb") as opened:
            run = subprocess.run(
                ffmpeg.command("avi", SMALL, (64, 48), Fraction(30)), stdin=opened, capture_output=True
            )
        frames = len(list(jpeg_packets(io.BytesIO(run.stdout))))
        if run.returncode == 0 and run.stderr and frames < WHOLE["packed_b_frames.avi"]:
            lost += 1
            with pytest.raises(Unreadable, match=f"^damaged: {frames} of {WHOLE['packed_b_frames.avi']} "):
                encode(source, SMALL, io.BytesIO())
    assert lost, "no place was found where ffmpeg loses a frame and exits with 0 all the same"


def test_concealed_damage_keeps_every_frame(video, tmp_path):
    assert len(encoded(changed(tmp_path, video("mpeg4.avi"), overwrite_with_0xa5(0.3, 8)))) == 30


NO_VIDEO = {
    "empty.mp4": b"",
    "text.mp4": b"hello\nworld\n",
    "terminal.mp4": b"\x1b[31mhello\x1b[0m\n" * 9,
    "noise.mp4": bytes(np.random.default_rng(1).integers(0, 256, 20_000, np.uint8)),
    "subtitles.mp4": b"1\n00:00:00,000 --> 00:00:01,000\nhello\n",
    "session.mp4": b"v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\n"
    b"a=rtpmap:96 H264/90000\n",
}


@pytest.mark.parametrize(("name", "content"), NO_VIDEO.items())
def test_what_is_no_video(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(Unreadable, match=r"^(not readable as a video|no video)"):
        probe(tmp_path / name)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("audio_only.m4a", "no video stream (it has audio only)"),
        ("audio_with_cover.mp3", "no video stream (it has audio only)"),
        ("still.jpg", "no video: ffmpeg takes it for 'jpeg_pipe'"),
    ],
)
def test_media_without_video(video, name, reason):
    with pytest.raises(Unreadable) as caught:
        probe(video(name))
    assert caught.value.reason == reason


PLAYLISTS = {
    "hls.m3u8": "#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:1.0,\n{}\n#EXT-X-ENDLIST\n",
    "hls.mp4": "#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:1.0,\nfile:{}\n#EXT-X-ENDLIST\n",
    "concat.mp4": "ffconcat version 1.0\nfile {}\n",
    "dash.mp4": '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" '
    'mediaPresentationDuration="PT1S"><Period><AdaptationSet mimeType="video/mp4"><Representation id="1" '
    'bandwidth="1"><BaseURL>{}</BaseURL></Representation></AdaptationSet></Period></MPD>',
}


@pytest.mark.parametrize(("name", "playlist"), PLAYLISTS.items())
def test_playlist_leads_to_no_other_file(tmp_path, name, playlist):
    other = tmp_path / "other.ts"
    os.mkfifo(other)
    (tmp_path / name).write_text(playlist.format("other.ts"))
    # Whoever opens a FIFO to read it waits for a writer: for ever, so a second process does it.
    code = "import sys, pathlib, preprocess.probe as f; f.probe(pathlib.Path(sys.argv[1]))"
    run = subprocess.run([sys.executable, "-c", code, tmp_path / name], capture_output=True, text=True, timeout=60)
    assert "preprocess.sources.Unreadable: not readable as a video" in run.stderr


def test_picture_sequence_leads_to_no_other_file(video, tmp_path):
    for name in ("%d.jpg", "1.jpg", "2.jpg"):
        (tmp_path / name).write_bytes(video("still.jpg").read_bytes())
    with pytest.raises(Unreadable, match=r"^no video: ffmpeg takes it for 'jpeg_pipe'"):
        probe(tmp_path / "%d.jpg")


@pytest.mark.parametrize("kind", ["fifo", "folder", "dangling", "loop"])
def test_what_is_no_file(tmp_path, kind):
    path = tmp_path / "it.mp4"
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to({"dangling": "nowhere.mp4", "loop": "it.mp4"}[kind])
    with pytest.raises(Unreadable, match=r"^(no regular file|cannot be opened: )"):
        encode(path, SMALL, io.BytesIO())


def test_unreadable_file(tmp_path):
    path = tmp_path / "it.mp4"
    path.write_bytes(b"secret")
    path.chmod(0)
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        with pytest.raises(Unreadable, match=r"^cannot be opened: Permission denied"):
            probe(path)
    finally:
        os.seteuid(user)


@pytest.mark.parametrize(
    "name", ["-dash.mp4", "two words.mp4", "'\"`$(x)`.mp4", "%03d%s.mp4", "new\nline.mp4", "漢字 ü.mp4", "file:x.mp4"]
)
def test_any_file_name(video, tmp_path, name):
    (tmp_path / name).write_bytes(video("h264.mp4").read_bytes())
    assert len(encoded(tmp_path / name)) == 30


@pytest.mark.skipif(sys.platform == "darwin", reason="file names are UTF-8 there")
def test_file_name_that_is_no_utf8(video, tmp_path):
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff\xe9.mp4"))
    path.write_bytes(video("h264.mp4").read_bytes())
    assert len(encoded(path)) == 30


@pytest.mark.parametrize(("name", "red"), [("red_above_blue.mp4", 0), ("turned_90.mp4", 1), ("turned_180.mov", 2)])
def test_picture_is_turned_upright(video, name, red):
    """``red`` counts the quarter turns, counterclockwise, from the top edge to the red one."""
    top, left, bottom, right = (slice(2, 14), slice(20, 44)), (slice(20, 44), slice(2, 14)), None, None
    bottom, right = (slice(50, 62), top[1]), (left[0], slice(50, 62))
    picture = decoded(encoded(video(name), EncodeOptions("64x64"))[0])
    edge = (top, left, bottom, right)[red]
    across = (top, left, bottom, right)[(red + 2) % 4]
    assert picture[edge][..., 0].min() > 200 > 50 > picture[edge][..., 2].max()
    assert picture[across][..., 2].min() > 200 > 50 > picture[across][..., 0].max()


@pytest.mark.parametrize("levels", ["tv", "pc"])
@pytest.mark.parametrize(
    ("colour", "rgb"),
    [("red", (255, 0, 0)), ("lime", (0, 255, 0)), ("blue", (0, 0, 255)), ("white", (255,) * 3), ("gray", (128,) * 3)],
)
def test_bt709_becomes_bt601_at_full_range(video, colour, rgb, levels):
    jpeg = encoded(video(f"{colour}_bt709_{levels}.mp4"), EncodeOptions("64x48", quality=2))[0]
    planes = decoded(jpeg, "yuvj420p").ravel()
    y, cb, cr = (plane.mean() for plane in np.split(planes, [64 * 48, 64 * 48 * 5 // 4]))
    # ITU-T T.871, the colours of JPEG.
    got = y + 1.402 * (cr - 128), y - 0.344136 * (cb - 128) - 0.714136 * (cr - 128), y + 1.772 * (cb - 128)
    assert np.abs(np.subtract(got, rgb)).max() <= 5


def test_size_and_quality(video):
    small, large = (encoded(video("h264.mp4"), EncodeOptions("176x90", quality=quality)) for quality in (20, 2))
    assert decoded(large[0]).shape == (90, 176, 3)
    with av.open(io.BytesIO(large[0]), format="mjpeg") as container:
        assert container.streams.video[0].format.name == "yuvj420p"
    assert sum(map(len, small)) < sum(map(len, large))


def test_timeout(video):
    with pytest.raises(Unreadable, match=r"^not done after 0\.01 s"):
        encode(video("long.mp4"), EncodeOptions("2048x2048", timeout=0.01), io.BytesIO())


def test_stop_ends_ffmpeg(video):
    with pytest.raises(Interrupted):
        encode(video("long.mp4"), EncodeOptions("2048x2048"), io.BytesIO(), stopped=lambda: True)


def test_full_sink_is_no_fault_of_the_video(video):
    class Full(io.BytesIO):
        def write(self, _):
            raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        encode(video("h264.mp4"), SMALL, Full())


def test_messages_do_not_depend_on_the_order_of_threads():
    log = [b"[h264 @ 0x5581] first\n", b"[h264 @ 0x5581] second\n", b"[in#0 @ 0x77] cut off\n", b"Conversion failed!\n"]
    said = ffmpeg.messages(log)
    assert said == "Conversion failed! | [h264] first | [h264] second | [in#0] cut off"
    assert ffmpeg.messages([log[2], log[3], *log[:2] * 100]) == said
