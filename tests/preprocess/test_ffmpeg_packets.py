"""jpeg_packets against pictures made by hand."""

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from preprocess.packets import jpeg_packets

START, END = b"\xff\xd8", b"\xff\xd9"


def segment(marker, content):
    return bytes([0xFF, marker]) + (len(content) + 2).to_bytes(2, "big") + content


def picture(table=b"\x00" * 64, scan=b"\x12\xff\x00\x34"):
    return START + segment(0xDB, table) + segment(0xDA, b"\x01\x01\x00\x00\x3f\x00") + scan + END


class Chunks(io.RawIOBase):
    """A stream that gives its bytes in chunks of given sizes, then the rest."""

    def __init__(self, content, sizes):
        super().__init__()
        self._content, self._sizes = io.BytesIO(content), iter(sizes)

    def read(self, count=-1):
        return self._content.read(min(count, next(self._sizes, count)))


PICTURES = [
    picture(),
    picture(table=b"\xff\xd9" * 20),
    picture(table=b"\xff\xda\xff\xd8"),
    picture(scan=b"\x01\xff\xd0\x02\xff\xd7\xff\x00\xd9"),
    picture(scan=b""),
    picture(scan=b"\xff\x00"),
]


def test_pictures_come_apart_as_they_were():
    assert list(jpeg_packets(io.BytesIO(b"".join(PICTURES)))) == PICTURES


def test_every_chunk_boundary():
    content = b"".join(PICTURES)
    for at in range(1, len(content)):
        assert list(jpeg_packets(Chunks(content, [at]))) == PICTURES
    assert list(jpeg_packets(Chunks(content, [1] * len(content)))) == PICTURES


def test_picture_broken_off_anywhere_is_left_out():
    whole, broken = PICTURES[3], PICTURES[1]
    for length in range(len(broken)):
        assert list(jpeg_packets(io.BytesIO(whole + broken[:length]))) == [whole]


@pytest.mark.parametrize("content", [b"hello world", b"\x00" + PICTURES[0], START + b"\x00\x10" + b"\x00" * 20])
def test_what_is_no_jpeg(content):
    with pytest.raises(ValueError, match="no JPEG"):
        list(jpeg_packets(io.BytesIO(content)))


def test_junk_between_pictures():
    packets = jpeg_packets(io.BytesIO(PICTURES[0] + b"\n" + PICTURES[1]))
    assert next(packets) == PICTURES[0]
    with pytest.raises(ValueError, match="no JPEG"):
        next(packets)


@given(st.lists(st.tuples(st.binary(max_size=300), st.binary(max_size=300)), max_size=5), st.lists(st.integers(1, 50)))
def test_any_tables_and_scans_in_any_chunks(contents, sizes):
    pictures = [picture(table, scan.replace(b"\xff", b"\xff\x00")) for table, scan in contents]
    assert list(jpeg_packets(Chunks(b"".join(pictures), sizes))) == pictures


def test_pictures_of_ffmpeg(video, run_ffmpeg):
    written = run_ffmpeg("-i", video("h264.mp4"), "-f", "mjpeg", "-")
    pictures = list(jpeg_packets(io.BytesIO(written)))
    assert len(pictures) == 30
    assert b"".join(pictures) == written
