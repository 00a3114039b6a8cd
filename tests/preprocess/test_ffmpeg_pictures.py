"""Folders of numbered pictures."""

import io
import os
from fractions import Fraction

import av
import numpy as np
import pytest

from preprocess.encode import encode
from preprocess.ffmpeg import EncodeOptions
from preprocess.packets import jpeg_packets, jpeg_size
from preprocess.sources import Unreadable

OPTIONS = EncodeOptions("64x48", quality=2)
NUMBERS = range(1, 31)


@pytest.fixture
def folder(video, run_ffmpeg, tmp_path):
    """The frames of h264.mp4 as 00001.jpg to 00030.jpg, and what else may lie beside them."""
    root = tmp_path / "1234"
    root.mkdir()
    run_ffmpeg("-i", video("h264.mp4"), "-q:v", "2", "-bitexact", root / "%05d.jpg")
    for name in ("Thumbs.db", ".DS_Store", "._00001.jpg", "cover.jpg", "00001.png", "00001.jpg.part"):
        (root / name).write_bytes(b"no picture")
    (root / "00099").mkdir()
    return root


def frames_of(folder, options=OPTIONS, **arguments):
    sink = io.BytesIO()
    found, packets = encode(folder, options, sink, frame_rate=12, **arguments)
    frames = []
    for jpeg in jpeg_packets(io.BytesIO(sink.getvalue())):
        with av.open(io.BytesIO(jpeg), format="mjpeg") as container:
            frames.append(next(container.decode(video=0)).to_ndarray(format="rgb24").astype(float))
    assert len(frames) == len(packets.sizes)
    return frames, packets, found


def psnr(a, b):
    return 10 * np.log10(255**2 / np.square(a - b).mean())


def test_every_picture_becomes_a_frame(folder, video):
    frames, packets, found = frames_of(folder)
    with av.open(str(video("h264.mp4"))) as container:
        wanted = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    for k, frame in enumerate(frames):
        likeness = [psnr(frame, other) for other in wanted]
        assert likeness[k] >= 33
        assert int(np.argmax(likeness)) == k
    assert len(frames) == 30
    assert (packets.fps, packets.start, packets.end) == (12, 0.0, 2.5)
    assert (found.packets, found.fps, found.duration) == (30, Fraction(12), 2.5)
    assert (found.width, found.height) == (64, 48)


def test_cut_and_rate(folder):
    frames, *_ = frames_of(folder)
    cut, packets, _ = frames_of(folder, trim=(0.5, 1.75))
    assert np.array_equal(cut, frames[6:21])
    assert (packets.start, packets.end) == (0.5, 1.75)
    slower, packets, _ = frames_of(folder, EncodeOptions("64x48", quality=2, fps=6))
    assert np.array_equal(slower, frames[::2])
    assert packets.fps == 6
    with pytest.raises(Unreadable, match=r"^trim: starts at 2\.5 s, the video ends at 2\.5 s"):
        frames_of(folder, trim=(2.5, 3.0))


@pytest.mark.parametrize(("codec", "fourcc"), [("vp9", b"VP90"), ("h264", b"H264")])
def test_compact_codecs(folder, codec, fourcc):
    sink = io.BytesIO()
    _, packets = encode(folder, EncodeOptions("none", codec=codec), sink, frame_rate=12)
    assert len(packets.sizes) == 30
    assert sink.getvalue()[8:12] == fourcc
    assert (packets.width, packets.height) == (64, 48)


def test_numbers_count_and_not_their_order_as_text(folder):
    frames, *_ = frames_of(folder)
    for number in NUMBERS:
        (folder / f"{number:05d}.jpg").rename(folder / f"{number}.{'JPEG' if number % 2 else 'jpg'}")
    assert np.array_equal(frames_of(folder)[0], frames)


def test_numbers_may_begin_anywhere(folder):
    for number in NUMBERS[:10]:
        (folder / f"{number:05d}.jpg").unlink()
    assert len(frames_of(folder)[0]) == 20


def test_missing_picture(folder):
    (folder / "00007.jpg").unlink()
    with pytest.raises(Unreadable) as caught:
        frames_of(folder)
    assert caught.value.reason == "frames missing: 00007.jpg"


def test_picture_twice(folder):
    (folder / "7.jpg").write_bytes((folder / "00007.jpg").read_bytes())
    with pytest.raises(Unreadable, match=r"^frames twice: 00007\.jpg and 7\.jpg"):
        frames_of(folder)


def test_folder_without_pictures(tmp_path):
    with pytest.raises(Unreadable, match=r"^no frames: "):
        frames_of(tmp_path)
    with pytest.raises(Unreadable, match=r"^cannot be opened: No such file"):
        frames_of(tmp_path / "nowhere")
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(Unreadable, match=r"^cannot be opened: Not a directory"):
        frames_of(tmp_path / "file")


def spoil(content, how):
    return {
        "empty": b"",
        "text": b"no picture at all",
        "cut off": content[: len(content) // 2],
        "cut off at its end": content[:-2],
        "two": content + content,
        "something behind": content + b"\n",
        "playlist": b"#EXTM3U\n#EXTINF:1.0,\n/etc/passwd\n#EXT-X-ENDLIST\n",
        "png": b"\x89PNG\r\n\x1a\n" + bytes(99),
        "no scan": b"\xff\xd8\xff\xd9",
    }[how]


@pytest.mark.parametrize(
    "how",
    ["empty", "text", "cut off", "cut off at its end", "two", "something behind", "playlist", "png", "no scan"],
)
def test_file_that_is_not_one_jpeg(folder, how):
    path = folder / "00007.jpg"
    path.write_bytes(spoil(path.read_bytes(), how))
    with pytest.raises(Unreadable, match=r"^no JPEG: 00007\.jpg"):
        frames_of(folder)


@pytest.mark.parametrize(("kind", "says"), [("fifo", "no regular file"), ("folder", "no regular file")])
def test_what_is_no_file(folder, kind, says):
    path = folder / "00007.jpg"
    path.unlink()
    if kind == "fifo":
        os.mkfifo(path)
    else:
        path.mkdir()
    with pytest.raises(Unreadable, match=rf"^{says}: 00007\.jpg"):
        frames_of(folder)


def test_picture_that_cannot_be_decoded(folder):
    path = folder / "00007.jpg"
    content = path.read_bytes()
    # The marker of its frame's header: a lossless JPEG now, which it is not.
    path.write_bytes(content.replace(b"\xff\xc0", b"\xff\xc9", 1))
    with pytest.raises(Unreadable, match=r"^damaged: \d+ of 30 frames could be decoded"):
        frames_of(folder)


def test_pictures_of_several_sizes_and_kinds(folder, run_ffmpeg):
    run_ffmpeg("-f", "lavfi", "-i", "testsrc=size=200x100", "-frames:v", 1, folder / "00031.jpg")
    run_ffmpeg("-f", "lavfi", "-i", "testsrc=size=31x77,format=gray", "-frames:v", 1, folder / "00032.jpg")
    frames, *_ = frames_of(folder, EncodeOptions("none"))
    assert len(frames) == 32
    assert {frame.shape for frame in frames} == {(48, 64, 3)}


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (EncodeOptions(largest_picture=64 * 48 - 1), "too large: 64x48 pixels, at most 3071 in all"),
        (EncodeOptions(most_frames=29), "too large: more than 29 frames"),
        (EncodeOptions(longest=2.0), "too large: 2 s long, at most 2"),
    ],
)
def test_bounds(folder, options, says):
    with pytest.raises(Unreadable) as caught:
        frames_of(folder, options)
    assert caught.value.reason == says


def segment(marker, content):
    return bytes([0xFF, marker]) + (len(content) + 2).to_bytes(2, "big") + content


def test_size_of_a_jpeg_with_anything_in_it():
    frame = b"\x08" + (48).to_bytes(2, "big") + (64).to_bytes(2, "big") + b"\x01\x01\x11\x00"
    thumbnail = segment(0xE1, b"Exif\0\0\xff\xd8" + segment(0xC0, frame[:1] + b"\0\1\0\1" + frame[5:]) + b"\xff\xd9")
    scan = segment(0xDA, b"\x01\x01\x00\x00\x3f\x00") + b"\x12\xff\x00\x34\xff\xd3\x56\xff\xff"
    tables = segment(0xC4, b"\xff\xd9\xff\xda")
    whole = b"\xff\xd8" + thumbnail + segment(0xC2, frame) + scan + tables + scan + b"\xd9"
    assert jpeg_size(whole) == (64, 48)
    for length in range(len(whole)):
        with pytest.raises(ValueError, match="no JPEG"):
            jpeg_size(whole[:length])
    with pytest.raises(ValueError, match="two frame headers"):
        jpeg_size(b"\xff\xd8" + segment(0xC0, frame) + segment(0xC0, frame) + scan + b"\xd9")
    with pytest.raises(ValueError, match="it has no size"):
        jpeg_size(b"\xff\xd8" + scan + b"\xd9")
