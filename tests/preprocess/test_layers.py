"""VP9 in temporal layers: a frame decodes from the packets it needs to what it is in the whole video, bit by bit."""

import io

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nvidia.dali import Pipeline, fn, types

from preprocess import ffmpeg, layer_check
from preprocess.encode import Unreadable, encode
from preprocess.errors import UsageError
from preprocess.ffmpeg import EncodeOptions, executable
from preprocess.packets import ivf_header, ivf_packet_header, ivf_packets, packets_of
from preprocess.vp9 import Vp9References, layered_back, with_layered_header

# Of each: the source, or how many frames of noise; the options.
STREAMS = {
    "noise, GOP 32": (75, {}),
    "noise, GOP 8": (75, {"gop": 8}),
    "noise, GOP 4": (23, {"gop": 4}),
    "noise, GOP 12": (50, {"gop": 12}),
    "noise, best quality": (40, {"quality": 0}),
    "noise, worst quality": (40, {"quality": 63}),
    "noise, one layer": (30, {"layers": 1}),
    "noise, 2 layers": (75, {"layers": 2}),
    "noise, 2 layers, GOP 8": (75, {"layers": 2, "gop": 8}),
    "noise, 2 layers, GOP 24, best quality": (50, {"layers": 2, "gop": 24, "quality": 0}),
    **{f"noise, 2 layers, {frames} frames": (frames, {"layers": 2}) for frames in (1, 2, 8, 9)},
    **{f"noise, {frames} frames": (frames, {}) for frames in (1, 2, 3, 4, 5, 6, 9)},
    "variable frame rate": ("vfr.mkv", {"gop": 8}),
    "odd size": ("odd_size.mkv", {"resize": "none"}),
    "hidden frames": ("vp9_alt_ref.webm", {}),
    "hidden frames, 2 layers": ("vp9_alt_ref.webm", {"layers": 2}),
    "variable frame rate, 2 layers": ("vfr.mkv", {"gop": 8, "layers": 2}),
    "odd size, 2 layers": ("odd_size.mkv", {"resize": "none", "layers": 2}),
    "size that changes, 2 layers": ("size_changes.mkv", {"layers": 2}),
    "other rate, 2 layers": ("long.mp4", {"fps": 7.5, "layers": 2}),
    "NTSC's rate, 2 layers": ("long.mp4", {"fps": 29.97, "layers": 2}),
    "other rate": ("long.mp4", {"fps": 7.5}),
    "one colour": ("gray_bt709_tv.mp4", {"fps": 240.0}),
    "moving": ("long.mp4", {"resize": "96x80"}),
}


def needed(back, frames):
    """The packets that frames need: what the references lead to."""
    found = set()
    for frame in frames:
        while frame not in found:
            found.add(frame)
            frame -= int(back[frame])
    return sorted(found)


class Stream:
    """An encoded video, its packets and all its frames as DALI decodes them."""

    def __init__(self, source, options):
        self.options = EncodeOptions(**{"resize": "64x48", "codec": "vp9", **options})
        sink = io.BytesIO()
        self.packets = encode(source, self.options, sink)[1]
        self.content = sink.getvalue()
        self.cut = [bytes(packet) for packet in ivf_packets(io.BytesIO(self.content))]
        self.whole = self.decode(range(len(self.cut)), range(len(self.cut)))

    def decode(self, kept, frames):
        """Frames, of a stream that consists of some packets alone."""
        kept, count = list(kept), len(list(frames))
        stream = ivf_header(b"VP90", self.packets.width, self.packets.height, (30, 1), len(kept))
        stream += b"".join(ivf_packet_header(len(self.cut[k]), i) + self.cut[k] for i, k in enumerate(kept))
        at = np.array([kept.index(frame) for frame in frames], np.int32)
        pipeline = Pipeline(batch_size=1, num_threads=1, device_id=None, prefetch_queue_depth=1)
        with pipeline:
            data = fn.external_source(source=lambda: [np.frombuffer(stream, np.uint8)], dtype=types.UINT8, ndim=1)
            pipeline.set_outputs(fn.decoders.video(data, frames=at.tolist(), device="cpu"))
        pipeline.build()
        (output,) = pipeline.run()
        frames = np.array(output.as_array()[0])
        assert len(frames) == count
        return frames


@pytest.fixture(scope="module")
def streams(video, run_ffmpeg, tmp_path_factory):
    """A function: ``streams(name)`` is one of STREAMS."""
    folder, made = tmp_path_factory.mktemp("noise"), {}

    def stream(name):
        if name not in made:
            source, options = STREAMS[name]
            if isinstance(source, int):
                path = folder / f"{source}.mkv"
                picture = "testsrc2=size=64x48:rate=30,noise=alls=40:allf=t"
                run_ffmpeg("-f", "lavfi", "-i", picture, "-frames:v", source, "-c:v", "ffv1", path)
            made[name] = Stream(path if isinstance(source, int) else video(source), options)
        return made[name]

    return stream


@pytest.mark.parametrize("name", STREAMS)
def test_every_frame_alone_is_what_it_is_in_the_whole_video(streams, name):
    stream = streams(name)
    for frame in range(len(stream.whole)):
        kept = needed(stream.packets.back, [frame])
        assert np.array_equal(stream.decode(kept, [frame])[0], stream.whole[frame]), frame


@pytest.mark.parametrize(
    "name", ["noise, GOP 32", "noise, GOP 12", "hidden frames", "noise, one layer", "noise, 2 layers"]
)
@settings(max_examples=25)
@given(data=st.data())
def test_any_frames_are_what_they_are_in_the_whole_video(streams, name, data):
    stream = streams(name)
    frames = sorted(data.draw(st.sets(st.integers(0, len(stream.whole) - 1), min_size=1, max_size=16)))
    found = stream.decode(needed(stream.packets.back, frames), frames)
    assert np.array_equal(found, stream.whole[frames])


@pytest.mark.parametrize("name", STREAMS)
def test_references_are_read_off_the_packets(streams, name):
    stream = streams(name)
    back = [reference for _, reference in packets_of("vp9", io.BytesIO(stream.content))]
    assert back == stream.packets.back.tolist() == [stream.options.back_of(k) for k in range(len(back))]
    most = {1: stream.options.gop, 2: stream.options.gop // 8 + 1, 3: stream.options.gop // 4 + 2}
    assert max(len(needed(back, [k])) for k in range(len(back))) <= most[stream.options.layers]


def test_frames_of_a_group_in_2_layers():
    assert [layered_back(k, 2) for k in range(18)] == [0, 1, 2, 3, 4, 5, 6, 7, 8, 1, 2, 3, 4, 5, 6, 7, 8, 1]
    back = [layered_back(k, 2) for k in range(32)]
    assert needed(back, [7]) == [0, 7]
    assert needed(back, [8]) == [0, 8]
    assert needed(back, [31]) == [0, 8, 16, 24, 31]


def test_frames_of_a_group_in_3_layers():
    assert [layered_back(k, 3) for k in range(9)] == [0, 1, 2, 1, 4, 1, 2, 1, 4]
    back = [layered_back(k, 3) for k in range(32)]
    assert needed(back, [0]) == [0]
    assert needed(back, [9]) == [0, 4, 8, 9]
    assert needed(back, [10]) == [0, 4, 8, 10]
    assert needed(back, [11]) == [0, 4, 8, 10, 11]
    assert needed(back, [31]) == [0, 4, 8, 12, 16, 20, 24, 28, 30, 31]


def decoded(packets):
    decoder = av.CodecContext.create("vp9", "r")
    decoder.thread_count = 1
    return [f.to_ndarray() for packet in [*map(av.Packet, packets), None] for f in decoder.decode(packet)]


@pytest.mark.parametrize("name", ["h264.mp4", "vp9_alt_ref.webm"])
def test_headers_are_changed_and_pixels_are_not(video, run_ffmpeg, name):
    """What libvpx writes names pictures that are not needed, and decodes to the same as with them left out."""
    options = ["-c:v", "libvpx-vp9", "-deadline", "realtime", "-cpu-used", 8, "-crf", 30, "-b:v", 0, "-g", 32]
    options += ["-lag-in-frames", 0, "-error-resilient", 1, "-ts-parameters", "ts_layering_mode=3", "-f", "ivf"]
    stream = run_ffmpeg("-i", video(name), "-threads", 1, *options, "-")
    written = [bytes(packet) for packet in ivf_packets(io.BytesIO(stream))]
    named = [with_layered_header(memoryview(packet), k % 32) for k, packet in enumerate(written)]
    back = [reference for _, reference in packets_of("vp9", io.BytesIO(stream))]
    assert back == [k % 32 and 1 + (k % 2 == 0) for k in range(len(written))]
    changed = [k % 32 for k in range(len(written)) if written[k] != named[k]]
    assert changed == [k % 32 for k in range(len(written)) if k % 32 and k % 4 != 3]
    assert len(written) >= 30
    for a, b in zip(decoded(written), decoded(named), strict=True):
        assert np.array_equal(a, b)


@st.composite
def headers(draw):
    """Frames after a keyframe: error-resilient or not, the pictures they name and those they replace."""
    frame = st.tuples(st.booleans(), st.tuples(*[st.integers(0, 3)] * 3), st.integers(0, 15))
    return draw(st.lists(frame, min_size=1, max_size=12))


@given(headers(), st.sampled_from([0, 3]))
def test_references_lead_to_all_that_may_be_used(frames, profile):
    mark = [0b10, 2], [(profile & 1) << 1 | profile >> 1, 2], *([[0, 1]] if profile == 3 else [])

    def packet(*fields):
        bits = "".join(f"{value:0{width}b}" for value, width in (*mark, *fields))
        return memoryview(int(bits.ljust(128, "1"), 2).to_bytes(16, "big"))

    references, back = Vp9References(), [0]
    assert references.back(packet((0, 1), (0, 1), (1, 1), (0, 1))) == 0
    pictures, may_use = [0] * 8, [{0}]
    for number, (resilient, named, replaced) in enumerate(frames, 1):
        fields = [(0, 1), (1, 1), (1, 1), (int(resilient), 1), *([] if resilient else [(0, 2)]), (replaced, 8)]
        fields += [field for picture in named for field in ((picture, 3), (0, 1))]
        used = {pictures[picture] for picture in named} | (set() if resilient else {number - 1})
        try:
            back.append(references.back(packet(*fields)))
        except ValueError:
            # Right to refuse only where no one of them leads to all the others.
            assert not any(used <= set(needed(back, [one])) for one in used)
            return
        may_use.append({number}.union(*(may_use[one] for one in used)))
        assert may_use[number] <= set(needed(back, [number]))
        pictures = [number if replaced >> k & 1 else held for k, held in enumerate(pictures)]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "no VP9 frame"),
        (b"\x00" * 20, "no VP9 frame"),
        (b"\x86\x00", "breaks off in its header"),
        (b"\x87" + bytes(20), "comes before the first keyframe"),
        (b"\x88" + bytes(20), "a VP9 packet that shows no new frame"),
        (b"\x84" + bytes(20), "a VP9 packet that shows no new frame"),
    ],
)
def test_packets_that_are_none(content, says):
    with pytest.raises(ValueError, match=says):
        Vp9References().back(memoryview(content))


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (
            "s/^ts_layering_mode=3$/ts_layering_mode=2/",
            "packet 2 refers to the one 2 before it, not|packet 4 refers to",
        ),
        ("s/^ts_layering_mode=3$/ts_layering_mode=4/", "may refer to packet|refers to the one"),
        ("s/^ts_layering_mode=3$/ts_number_layers=1/", "may refer to packet|refers to the one"),
    ],
)
def test_other_layers_than_asked_for_are_refused(video, program, words, says):
    program(f"""exec {executable()} $(for word in "$@"; do echo "$word"; done | sed '{words}')""")
    with pytest.raises(UsageError, match=says):
        encode(video("h264.mp4"), EncodeOptions("64x48", codec="vp9"), io.BytesIO())


@pytest.mark.parametrize(
    "words", ["s/vp8-flags/vp8-flag/g", "s/,8),0)/,4),0)/g", "s/-error-resilient/-frame-parallel/"], ids=str
)
def test_other_layers_than_the_2_asked_for_are_refused(video, program, words):
    program(f"""exec {executable()} $(for word in "$@"; do echo "$word"; done | sed '{words}')""")
    layer_check.see_that_layers_are_kept.cache_clear()
    with pytest.raises(UsageError, match="does not write the temporal layers it is asked for"):
        encode(video("h264.mp4"), EncodeOptions("64x48", codec="vp9", layers=2), io.BytesIO())


@pytest.mark.parametrize("name", ["size_changes.mkv", "size_changes_turned.mkv"])
def test_frames_that_change_their_size_in_2_layers(video, name):
    """Their numbers begin again where frames are chosen: the video is at fault, and what is made otherwise is whole."""
    _, packets = encode(video(name), EncodeOptions("64x48", codec="vp9", layers=2), io.BytesIO())
    assert packets.back.tolist()[1:9] == [1, 2, 3, 4, 5, 6, 7, 8]
    with pytest.raises(Unreadable, match=r"^not for 2 layers: its size or format may change midway"):
        encode(video(name), EncodeOptions("64x48", codec="vp9", layers=2, fps=25), io.BytesIO())
    encode(video(name), EncodeOptions("64x48", codec="vp9", layers=3, fps=25), io.BytesIO())


def test_encoder_that_does_not_keep_to_the_layers(program, monkeypatch):
    layer_check.see_that_layers_are_kept.cache_clear()
    layer_check.see_that_layers_are_kept(3)
    layer_check.see_that_layers_are_kept.cache_clear()
    # Error-resilient, but with any reference it likes.
    monkeypatch.setattr(ffmpeg, "_IN_3_LAYERS", {})
    with pytest.raises(UsageError, match="does not write the temporal layers it is asked for: use --layers 1"):
        layer_check.see_that_layers_are_kept(3)
    program("echo ffmpeg: Unrecognized option ts-parameters >&2; exit 1")
    with pytest.raises(UsageError, match=r"\(ffmpeg: Unrecognized option ts-parameters\): use --layers 1"):
        layer_check.see_that_layers_are_kept(3)
