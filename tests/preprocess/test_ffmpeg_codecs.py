"""The compact codecs: VP9 and H.264 in IVF, as other programs read them."""

import io
import struct
import zlib

import av
import numpy as np
import pytest

from preprocess.encode import encode
from preprocess.errors import UsageError
from preprocess.ffmpeg import EncodeOptions, executable
from preprocess.index import packet_offsets
from preprocess.packets import h264_packets, ivf_packets, reference_finder

CODECS = ("vp9", "h264")
FOURCC = {"vp9": b"VP90", "h264": b"H264"}


def encoded(source, options):
    sink = io.BytesIO()
    found, packets = encode(source, options, sink)
    return sink.getvalue(), packets, found


def read_all(path):
    with av.open(str(path)) as container:
        return list(container.decode(video=0))


def decoded(codec, content, offsets, sizes):
    """The frames of packets, decoded one by one: one comes of each."""
    decoder = av.CodecContext.create(codec, "r")
    decoder.thread_count = 1
    frames = []
    for at, size in zip(offsets, sizes, strict=True):
        frames += decoder.decode(av.Packet(content[at : at + size]))
    return frames + decoder.decode(None)


def psnr(a, b):
    return 10 * np.log10(255**2 / np.square(a.astype(float) - b).mean())


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("gop", [1, 8])
@pytest.mark.parametrize("name", ["h264.mp4", "vfr.mkv", "vp9_alt_ref.webm", "one_frame.mp4", "packed_b_frames.avi"])
def test_packets_lie_where_they_should_and_decode_from_any_keyframe(video, codec, gop, name):
    content, packets, found = encoded(video(name), EncodeOptions("64x48", codec=codec, gop=gop, layers=1))
    offsets = packet_offsets(codec, packets.sizes)
    assert offsets.dtype == np.int64
    _, plain, _ = encoded(video(name), EncodeOptions("64x48"))
    assert len(packets.sizes) == len(plain.sizes)
    assert [zlib.crc32(content[o : o + s]) for o, s in zip(offsets, packets.sizes, strict=True)] == (
        packets.crc32.tolist()
    )
    assert packets.back.tolist() == [int(i % gop != 0) for i in range(len(packets.sizes))]
    assert packets.back.dtype == np.uint8
    assert packets.fps == found.fps
    frames = [frame.to_ndarray(format="rgb24") for frame in decoded(codec, content, offsets, packets.sizes)]
    assert len(frames) == len(packets.sizes)
    first = (len(frames) - 1) // gop * gop
    alone = decoded(codec, content, offsets[first:], packets.sizes[first:])
    for frame, same in zip(frames[first:], alone, strict=True):
        assert np.array_equal(frame, same.to_ndarray(format="rgb24"))


@pytest.mark.parametrize("codec", CODECS)
def test_member_is_a_whole_ivf_file(video, codec):
    content, packets, _ = encoded(video("h264.mp4"), EncodeOptions("96x80", codec=codec))
    mark, version, length, fourcc, width, height, rate, scale, count, _ = struct.unpack_from("<4sHH4sHHIIII", content)
    assert (mark, version, length, fourcc) == (b"DKIF", 0, 32, FOURCC[codec])
    assert (width, height, rate / scale, count) == (96, 80, 30, 30)
    at = 32
    for number, size in enumerate(packets.sizes.tolist()):
        assert struct.unpack_from("<IQ", content, at) == (size, number)
        at += 12 + size
    assert at == len(content)
    assert [len(packet) for packet in ivf_packets(io.BytesIO(content))] == packets.sizes.tolist()


@pytest.mark.parametrize("codec", CODECS)
def test_frame_k_is_frame_k_of_the_source(video, codec):
    wanted = [
        frame.reformat(96, 80, "rgb24", src_colorspace="ITU601", interpolation="BICUBIC").to_ndarray()
        for frame in read_all(video("h264.mp4"))
    ]
    content, packets, _ = encoded(video("h264.mp4"), EncodeOptions("96x80", codec=codec, quality=15))
    frames = decoded(codec, content, packet_offsets(codec, packets.sizes), packets.sizes)
    for k, frame in enumerate(frames):
        likeness = [psnr(frame.to_ndarray(format="rgb24"), other) for other in wanted]
        assert likeness[k] >= 33
        assert int(np.argmax(likeness)) == k


@pytest.mark.parametrize("codec", CODECS)
def test_bytes_are_the_same_each_time(video, codec):
    options = EncodeOptions("64x48", codec=codec)
    assert encoded(video("mpeg4.avi"), options)[0] == encoded(video("mpeg4.avi"), options)[0]


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("levels", ["tv", "pc"])
@pytest.mark.parametrize(("colour", "rgb"), [("red", (255, 0, 0)), ("lime", (0, 255, 0)), ("white", (255,) * 3)])
def test_colours_are_bt601_at_limited_range_and_say_so(video, colour, rgb, levels, codec):
    source = video(f"{colour}_bt709_{levels}.mp4")
    content, packets, _ = encoded(source, EncodeOptions("64x48", codec=codec, quality=4))
    frame = decoded(codec, content, packet_offsets(codec, packets.sizes), packets.sizes)[0]
    assert (int(frame.colorspace), int(frame.color_range)) == (5, 1)
    planes = frame.to_ndarray(format="yuv420p").astype(float).ravel()
    y, cb, cr = (plane.mean() for plane in np.split(planes, [64 * 48, 64 * 48 * 5 // 4]))
    # ITU-R BT.601, with 219 levels of luma and 224 of chroma.
    y, cb, cr = (y - 16) * 255 / 219, (cb - 128) * 255 / 224, (cr - 128) * 255 / 224
    got = y + 1.402 * cr, y - 0.344136 * cb - 0.714136 * cr, y + 1.772 * cb
    assert np.abs(np.subtract(got, rgb)).max() <= 6


def test_dali_decodes_vp9_on_the_cpu(video):
    from nvidia.dali import Pipeline, fn, types

    content, *_ = encoded(video("h264.mp4"), EncodeOptions("96x80", codec="vp9", quality=15))
    pipeline = Pipeline(batch_size=1, num_threads=1, device_id=None)
    with pipeline:
        stream = fn.external_source(source=lambda: [np.frombuffer(content, np.uint8)], dtype=types.UINT8, ndim=1)
        pipeline.set_outputs(fn.decoders.video(stream, device="cpu"))
    pipeline.build()
    (output,) = pipeline.run()
    frames = output.as_array()[0]
    assert frames.shape == (30, 80, 96, 3)
    for frame, source in zip(frames, read_all(video("h264.mp4")), strict=True):
        wanted = source.reformat(96, 80, "rgb24", src_colorspace="ITU601", interpolation="BICUBIC").to_ndarray()
        assert psnr(frame, wanted) >= 33


def test_quality_makes_files_smaller(video):
    for codec in CODECS:
        small, large = (
            encoded(video("h264.mp4"), EncodeOptions("96x80", codec=codec, quality=quality))[0] for quality in (50, 10)
        )
        assert len(small) < len(large)


@pytest.mark.parametrize(
    ("flags", "cut", "codec", "says"),
    [
        ("-c:v libx264 -bf 2 -g 8 -aud 1 -f h264", h264_packets, "h264", "a B slice"),
        ("-c:v libx264 -bf 0 -x264-params slices=2 -aud 1 -f h264", h264_packets, "h264", None),
        ("-c:v libx264 -f h264", h264_packets, "h264", "no H.264 access unit"),
        ("-c:v libvpx -f ivf", ivf_packets, "vp9", "VP9"),
        ("-c copy -f ivf", ivf_packets, "vp9", "several VP9 frames"),
    ],
)
def test_other_packets_than_asked_for_are_seen(video, run_ffmpeg, flags, cut, codec, says):
    written = run_ffmpeg("-i", video("vp9_alt_ref.webm"), "-threads", "1", *flags.split(), "-")
    back = reference_finder(codec)
    if says is None:
        assert 0 in [back(packet) for packet in cut(io.BytesIO(written))]
        return
    with pytest.raises(ValueError, match=says):
        for packet in cut(io.BytesIO(written)):
            back(packet)


@pytest.mark.parametrize("codec", CODECS)
def test_keyframes_elsewhere_than_asked_for_are_refused(video, program, codec):
    # The arguments that are "8" alone are the two sizes of a GOP, and the speed of VP9.
    program(f"""
        exec {executable()} $(for word in "$@"; do [ "$word" = 8 ] && word=7; echo "$word"; done)""")
    with pytest.raises(UsageError, match="does not write what it was asked for: packet 7 is"):
        encode(video("h264.mp4"), EncodeOptions("64x48", codec=codec, gop=8, layers=1), io.BytesIO())


@pytest.mark.parametrize("cut", [ivf_packets, h264_packets])
def test_packets_come_apart_wherever_the_stream_stops_for_a_while(video, run_ffmpeg, cut):
    format_ = (
        ["-c:v", "libvpx-vp9", "-f", "ivf"] if cut is ivf_packets else ["-c:v", "libx264", "-aud", 1, "-f", "h264"]
    )
    written = run_ffmpeg("-i", video("h264.mp4"), "-threads", 1, "-frames:v", 4, *format_, "-")

    class Dribble(io.BytesIO):
        def read(self, count=-1):
            return super().read(min(count, 7))

    whole = [bytes(packet) for packet in cut(io.BytesIO(written))]
    assert [bytes(packet) for packet in cut(Dribble(written))] == whole
    assert len(whole) == 4
    if cut is ivf_packets:
        assert [bytes(packet) for packet in cut(io.BytesIO(written[:-1]))] == whole[:-1]
    else:
        assert b"".join(whole) == written


@pytest.mark.parametrize("cut", [ivf_packets, h264_packets])
def test_what_is_no_such_stream(cut):
    with pytest.raises(ValueError, match="starts with"):
        list(cut(io.BytesIO(b"hello world" * 9)))
    assert list(cut(io.BytesIO(b""))) == []
