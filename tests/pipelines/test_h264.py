"""H.264 packets that have not the form that the preprocessor writes do not come to a decoder."""

import numpy as np
import pytest

from pipelines.h264 import is_h264
from pipelines.packets import Damaged, PacketReader
from pipelines.shard_store import MappedShards
from tests.pipelines.broken import copied, place_of, rewrite_packets

ROW, KEYFRAME, OTHER = 0, 8, 9
MADE = {
    "fixed size": {"codec": "h264"},
    "sizes that differ, no multiples of a block": {"resize": "none"},
    "small, every frame a keyframe": {"resize": "16x18", "gop": 1},
    "of the best quality": {"resize": "96x34", "quality": 1, "gop": 250},
}


@pytest.fixture(scope="module")
def dataset(preprocessed):
    return preprocessed("80x64", codec="h264")


def packet_of(dataset, frame):
    path, begin, size = place_of(dataset, "train", ROW, frame)
    return np.fromfile(path, np.uint8, size, offset=begin)


@pytest.mark.parametrize("how", MADE)
def test_what_the_preprocessor_writes_has_the_form(preprocessed, how):
    data = preprocessed(**{"resize": "80x64", "codec": "h264", **MADE[how]})
    for row in data.split("train"):
        reader = PacketReader(MappedShards(data.root / "train"), "h264")
        packets = reader.read(reader.announce(row, np.arange(row.frames))).packets
        for packet, back in zip(packets, row.packet_back, strict=True):
            assert not is_h264(packet, row.width, row.height, bool(back))
            if back == 0:
                assert not is_h264(packet, row.width - 2, row.height, True)
                assert not is_h264(packet, row.width, row.height + 2, True)


def test_subtitles_may_come_before_a_slice(dataset):
    for frame in (KEYFRAME, OTHER):
        packet = packet_of(dataset, frame).tobytes()
        with_message = packet[:6] + b"\x00\x00\x01\x06\x04" + bytes([40]) + b"\xb5" * 40 + b"\x80" + packet[6:]
        assert is_h264(np.frombuffer(with_message, np.uint8), 80, 64, frame == KEYFRAME)


CHANGES = {
    "zeros": lambda packet: bytes(len(packet)),
    "garbage": lambda packet: np.random.default_rng(len(packet)).bytes(len(packet)),
    "garbage behind the delimiter": lambda packet: packet[:6] + np.random.default_rng(1).bytes(len(packet) - 6),
    "no delimiter": lambda packet: packet[:4] + b"\x06" + packet[5:],
    "a bit that must not be set": lambda packet: packet.replace(b"\x01\x65", b"\x01\xe5").replace(
        b"\x01\x41", b"\x01\xc1"
    ),
    "lengths and no start codes": lambda packet: len(packet[4:]).to_bytes(4, "big") + packet[4:],
}
OF_KEYFRAMES = {
    "no sequence": lambda packet: packet.replace(b"\x00\x00\x01\x67", b"\x00\x00\x01\x6c"),
    "a sequence cut short": lambda packet: packet.replace(b"\x00\x00\x01\x67", b"\x00\x00\x01\x67\x64\x00\x00\x01\x6c")[
        : len(packet)
    ],
    "a slice of another frame": lambda packet: packet.replace(b"\x00\x00\x01\x65", b"\x00\x00\x01\x41"),
}


@pytest.mark.parametrize(
    ("how", "frame"),
    [*((how, frame) for how in CHANGES for frame in (KEYFRAME, OTHER)), *((how, KEYFRAME) for how in OF_KEYFRAMES)],
)
def test_packets_of_another_form_are_damaged(dataset, tmp_path, how, frame):
    broken = copied(dataset, tmp_path / "broken")
    rewrite_packets(broken, "train", [(ROW, frame)], {**CHANGES, **OF_KEYFRAMES}[how])
    reader, row = PacketReader(MappedShards(broken.root / "train"), "h264"), broken.split("train")[ROW]
    with pytest.raises(Damaged, match=rf"the packet of frame {frame} of '{row.key}' at byte \d+ is no H.264 of 80x64"):
        reader.read(reader.announce(row, np.array([OTHER])))


def test_a_keyframe_in_the_place_of_another_frame_is_damaged(dataset):
    keyframe, other = packet_of(dataset, KEYFRAME), packet_of(dataset, OTHER)
    assert is_h264(keyframe, 80, 64, True) and is_h264(other, 80, 64, False)
    assert not is_h264(keyframe, 80, 64, False) and not is_h264(other, 80, 64, True)


def test_any_sequence_is_read_or_refused(dataset):
    """Whatever bits are turned in it, no error comes out."""
    packet, draw = packet_of(dataset, KEYFRAME), np.random.default_rng(0)
    begin, found = packet.tobytes().index(b"\x00\x00\x01\x67") + 4, set()
    for _ in range(2000):
        changed = packet.copy()
        changed[draw.integers(begin, begin + 24, 3)] ^= draw.integers(0, 256, 3, np.uint8)
        found.add(is_h264(changed[: draw.integers(begin, len(packet))], 80, 64, True))
    assert found == {True, False}
