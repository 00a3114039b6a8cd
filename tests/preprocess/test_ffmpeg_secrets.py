"""Files that point at other files: nothing of those may get into a dataset."""

import io
import os
import shutil

import av
import numpy as np
import pytest

from preprocess.encode import encode
from preprocess.ffmpeg import EncodeOptions
from preprocess.packets import jpeg_packets
from preprocess.sources import Unreadable

SMALL = EncodeOptions("64x48")
HLS = "#EXTM3U\n#EXT-X-VERSION:7\n#EXT-X-TARGETDURATION:10\n{}#EXTINF:1.0,\n{}\n#EXT-X-ENDLIST\n"
DASH = (
    '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" profiles="urn:mpeg:dash:profile:full'
    ':2011" mediaPresentationDuration="PT1S" minBufferTime="PT1S"><Period><AdaptationSet mimeType="video/{kind}">'
    '<Representation id="1" bandwidth="1" codecs="avc1" width="64" height="48"><BaseURL>{}</BaseURL>'
    "</Representation></AdaptationSet></Period></MPD>"
)
IMF = (
    '<?xml version="1.0"?><CompositionPlaylist xmlns="http://www.smpte-ra.org/schemas/2067-3/2016"><Id>urn:uuid:1'
    "</Id><EditRate>24 1</EditRate><SegmentList></SegmentList></CompositionPlaylist>"
)
SDP = (
    "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\na=rtpmap:96 H264/90000\n"
    "a=control:file:{}\n"
)
# Each with {} for the name of another file, and how that may be written.
LISTS = {
    "hls": HLS.format("", "{}"),
    "hls with a map": HLS.format('#EXT-X-MAP:URI="{}"\n', "{}"),
    "hls with a key": HLS.format('#EXT-X-KEY:METHOD=AES-128,URI="{}"\n', "{}"),
    "hls of lists": '#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=1\n{}\n#EXT-X-MEDIA:TYPE=VIDEO,GROUP-ID="v",URI="{}"\n',
    "dash": DASH.replace("{kind}", "mp4"),
    "dash of ts": DASH.replace("{kind}", "mp2t"),
    "concat": "ffconcat version 1.0\nfile '{}'\n",
    "concat with options": "ffconcat version 1.0\nfile '{}'\noption safe 0\nduration 1\n",
    "imf": IMF,
    "sdp": SDP,
    "reference": "[Reference]\nRef1={}\n",
    "quicktime link": '<?xml version="1.0"?><?quicktime type="application/x-quicktime-media-link"?><embed src="{}"/>',
    "asx": '<asx version="3.0"><entry><ref href="{}"/></entry></asx>',
    "avisynth": 'FFVideoSource("{}")\n',
}
WAYS = [
    "{}",
    "file:{}",
    "./{}",
    "/{}",
    "fd:",
    "pipe:0",
    "subfile,,start,0,end,0,,:{}",
    "concat:{}",
    "data:,{}",
    "crypto:{}",
]
NAMES = ["it.mp4", "it.m3u8", "it.mpd", "it.avs", "it.sdp"]


@pytest.fixture
def secret(video, tmp_path):
    """A folder with videos, of green pictures, that are not to be seen."""
    for name in ("secret.ts", "secret.mp4"):
        shutil.copy(video(name), tmp_path / name)
    return tmp_path


def shows_green(source):
    """Whether any frame of what comes of a source is green."""
    sink = io.BytesIO()
    encode(source, SMALL, sink)
    for jpeg in jpeg_packets(io.BytesIO(sink.getvalue())):
        with av.open(io.BytesIO(jpeg), format="mjpeg") as container:
            red, green, blue = np.moveaxis(next(container.decode(video=0)).to_ndarray(format="rgb24"), -1, 0).astype(
                int
            )
            if (green - np.maximum(red, blue)).max() > 100:
                return True
    return False


def test_the_secret_would_be_seen(secret):
    assert shows_green(secret / "secret.ts")
    assert shows_green(secret / "secret.mp4")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", LISTS)
def test_list_of_files_leads_nowhere(secret, kind, name):
    for other in ("secret.ts", "secret.mp4"):
        for way in WAYS:
            target = way.format(secret / other if way == "/{}" else other).replace("//", "/")
            (secret / name).write_text(LISTS[kind].replace("{}", target))
            with pytest.raises(Unreadable, match=r"^(not readable as a video|no video)"):
                encode(secret / name, SMALL, io.BytesIO())


def boxed(content, kind, start=0):
    """Where the content of a box of a name begins and ends."""
    at = content.index(kind, start)
    return at + 4, at - 4 + int.from_bytes(content[at - 4 : at], "big")


def with_other_data(content, entry):
    """An MP4 file whose data lie where an entry of its "dref" says; its boxes' sizes and offsets follow."""
    begins, ends = boxed(content, b"dref")
    grows = 8 + len(entry) - (ends - begins)
    changed = bytearray(content[:begins] + b"\0\0\0\0\0\0\0\x01" + entry + content[ends:])
    for kind in (b"moov", b"trak", b"mdia", b"minf", b"dinf", b"dref"):
        at = changed.index(kind) - 4
        changed[at : at + 4] = (int.from_bytes(changed[at : at + 4], "big") + grows).to_bytes(4, "big")
    return bytes(changed)


def reference(kind, flags, content):
    return (12 + len(content)).to_bytes(4, "big") + kind + flags.to_bytes(4, "big") + content


def alias(folder, name):
    """A Macintosh alias record, as QuickTime's files hold for data in another file."""
    text = os.fsencode(name)
    path = os.fsencode(folder / name)
    fixed = bytearray(150)
    fixed[6:8], fixed[10] = (2).to_bytes(2, "big"), 4
    fixed[11:15] = b"disk"
    fixed[50], fixed[51 : 51 + len(text)] = len(text), text
    fixed[130:134] = b"\0\1\0\1"
    tail = b"".join(
        kind.to_bytes(2, "big") + len(value).to_bytes(2, "big") + value + b"\0" * (len(value) % 2)
        for kind, value in ((2, path), (18, path), (19, b"/"))
    )
    return bytes(fixed) + tail + b"\xff\xff\0\0"


@pytest.mark.parametrize("kind", ["alis", "url ", "urn "])
def test_movie_whose_data_lie_in_another_file(video, run_ffmpeg, secret, kind):
    content = video("secret.mp4").read_bytes()
    # The samples' own bytes are gone from this file: green can come from the other one alone.
    begins, ends = boxed(content, b"mdat")
    content = content[:begins] + b"\0" * (ends - begins) + content[ends:]
    entry = {
        "alis": reference(b"alis", 0, alias(secret, "secret.mp4")),
        "url ": reference(b"url ", 0, b"file:secret.mp4\0"),
        "urn ": reference(b"urn ", 0, b"x\0" + os.fsencode(secret / "secret.mp4") + b"\0"),
    }[kind]
    path = secret / "it.mp4"
    path.write_bytes(with_other_data(content, entry))
    if kind == "alis":
        follow = ("-enable_drefs", 1, "-use_absolute_path", 1)
        assert run_ffmpeg(*follow, "-i", path, "-f", "rawvideo", "-") == run_ffmpeg(
            "-i", secret / "secret.mp4", "-f", "rawvideo", "-"
        )
    with pytest.raises(Unreadable):
        encode(path, SMALL, io.BytesIO())
    path.write_bytes(with_other_data(video("secret.mp4").read_bytes(), reference(b"url ", 1, b"")))
    assert shows_green(path)


@pytest.mark.parametrize("name", ["%d.jpg", "%05d.jpg", "*.jpg", "[0-9].jpg"])
def test_pattern_is_a_name_like_any_other(video, secret, name):
    for other in ("1.jpg", "2.jpg", "00001.jpg"):
        shutil.copy(video("still.jpg"), secret / other)
    with pytest.raises(Unreadable, match=r"^cannot be opened: No such file"):
        encode(secret / name, SMALL, io.BytesIO())
    shutil.copy(video("still.jpg"), secret / name)
    with pytest.raises(Unreadable, match=r"^no video: ffmpeg takes it for 'jpeg_pipe'"):
        encode(secret / name, SMALL, io.BytesIO())


def test_folder_whose_name_is_a_pattern(video, secret):
    for folder in ("%d", "%05d.jpg"):
        (secret / folder).mkdir()
        for number in (1, 2, 3):
            shutil.copy(video("still.jpg"), secret / folder / f"{number}.jpg")
        _, packets = encode(secret / folder, SMALL, io.BytesIO(), frame_rate=12)
        assert len(packets.sizes) == 3
