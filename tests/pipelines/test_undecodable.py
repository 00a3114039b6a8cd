"""Packets that are as the index says, but do not decode: traced to their videos, which are left out."""

import itertools
import logging
import multiprocessing
import re
from dataclasses import replace

import numpy as np
import pytest

from pipelines import EvalLoader, TrainLoader, batch_stream, decoding
from pipelines.batch_stream import BatchStream
from pipelines.decoding import CropsOfPictures
from pipelines.graph import picture_graph
from pipelines.jpeg import JpegHeads
from pipelines.packets import PacketReader
from pipelines.shard_store import MappedShards
from preprocess.errors import DataError
from tests.pipelines.broken import (
    CPU,
    TAKE,
    assert_bad_rows_only_are_masked,
    copied,
    loaded,
    places,
    rewrite_packets,
    write_rows,
)

SEGMENT_DHT, SEGMENT_DQT, SEGMENT_SOS = b"\xff\xc4", b"\xff\xdb", b"\xff\xda"


def with_bytes(packet, at, content):
    return packet[:at] + content + packet[at + len(content) :]


BROKEN = {
    "mjpeg": {
        "Huffman table": lambda packet: with_bytes(packet, packet.index(SEGMENT_DHT) + 5, b"\xff" * 16),
        "quantisation table": lambda packet: with_bytes(packet, packet.index(SEGMENT_DQT) + 4, b"\x09"),
        "scan header": lambda packet: with_bytes(packet, packet.index(SEGMENT_SOS) + 4, b"\x07"),
        "no header": lambda packet: bytes(60) + packet[60:],
        "garbage": lambda packet: np.random.default_rng(len(packet)).bytes(len(packet)),
        "garbage between markers": lambda packet: (
            packet[:2] + np.random.default_rng(1).bytes(len(packet) - 4) + packet[-2:]
        ),
    },
    "vp9": {
        "zeros": lambda packet: bytes(len(packet)),
        "garbage": lambda packet: np.random.default_rng(len(packet)).bytes(len(packet)),
        "header alone": lambda packet: packet[:9] + bytes(len(packet) - 9),
        "no frame marker": lambda packet: bytes([packet[0] ^ 0x80]) + packet[1:],
    },
}


@pytest.fixture(scope="module")
def jpegs(preprocessed):
    return preprocessed("80x64")


@pytest.fixture(scope="module")
def streams(preprocessed):
    return preprocessed("80x64", codec="vp9", gop=8)


def first_frames(dataset, split, count, train):
    """A packet of each of the first ``count`` samples that are asked for: {(row number, frame)}."""
    samples = [sample for step in places(dataset, split, train=train, epochs=1) for sample in step]
    return {(sample.row_number, int(sample.frames[2])) for sample in samples[:count]}


@pytest.mark.parametrize("train", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("count", [1, 6])
@pytest.mark.parametrize("how", BROKEN["mjpeg"])
def test_a_jpeg_that_does_not_decode_is_left_out(jpegs, tmp_path, caplog, how, count, train):
    assert_left_out(jpegs, tmp_path, caplog, BROKEN["mjpeg"][how], count, train)


@pytest.mark.parametrize("train", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("count", [1, 6])
@pytest.mark.parametrize("how", BROKEN["vp9"])
def test_a_vp9_packet_that_does_not_decode_is_left_out(streams, tmp_path, caplog, how, count, train):
    assert_left_out(streams, tmp_path, caplog, BROKEN["vp9"][how], count, train)


def assert_left_out(dataset, tmp_path, caplog, change, count, train):
    broken = copied(dataset, tmp_path / "broken")
    packets = first_frames(dataset, "train", count, train)
    rewrite_packets(broken, "train", packets, change)
    with caplog.at_level(logging.WARNING, "pipelines"):
        _, (first, second) = assert_bad_rows_only_are_masked(dataset, broken, "train", packets, train=train)
    assert first
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == len({*first, *second})
    for key in {*first, *second}:
        (line,) = [line for line in said if f"'{key}'" in line]
        assert "/train/shard-0000" in line
        assert "at byte" in line
        assert "does not decode" in line or re.search("is no (JPEG|VP9) of 80x64", line)
        assert "\n" not in line


def test_streams_of_another_size_than_the_index_says_are_left_out(streams, tmp_path):
    broken = copied(streams, tmp_path / "broken")
    rows = list(broken.split("train"))
    rows[3] = replace(rows[3], width=rows[3].width - 2)
    write_rows(broken, "train", rows)
    packets = {(3, frame) for frame in range(rows[3].frames)}
    _, left_out = assert_bad_rows_only_are_masked(streams, broken, "train", packets, train=False)
    assert left_out == [[rows[3].key]] * 2


def test_two_ranks_leave_out_what_one_does(streams, tmp_path):
    broken = copied(streams, tmp_path / "broken")
    packets = first_frames(streams, "train", 3, True)
    rewrite_packets(broken, "train", packets, BROKEN["vp9"]["header alone"])
    loaders, left_out = assert_bad_rows_only_are_masked(streams, broken, "train", packets, train=True, ranks=2)
    assert sum(loader.bad.in_epoch for loader in loaders) == len(left_out[1])


@pytest.mark.parametrize("codec", ["mjpeg", "vp9"])
def test_nothing_decodes(jpegs, streams, tmp_path, codec):
    dataset = jpegs if codec == "mjpeg" else streams
    broken = copied(dataset, tmp_path / "broken")
    packets = [(number, frame) for number, row in enumerate(dataset.split("val")) for frame in range(row.frames)]
    rewrite_packets(broken, "val", packets, BROKEN[codec]["Huffman table" if codec == "mjpeg" else "header alone"])
    with pytest.raises(DataError, match=r"10 videos one after the other cannot be loaded; .* does not decode: "):
        loaded(broken, "val", train=False)


@pytest.mark.parametrize("codec", ["mjpeg", "vp9"])
def test_what_did_not_decode_once_spoils_no_batch_again(jpegs, streams, tmp_path, monkeypatch, codec):
    dataset, how = (jpegs, "Huffman table") if codec == "mjpeg" else (streams, "header alone")
    broken, spoilt, mend = copied(dataset, tmp_path / "broken"), [], BatchStream._mended
    packets = {(3, frame) for frame in range(dataset.split("train")[3].frames)}
    rewrite_packets(broken, "train", packets, BROKEN[codec][how])
    monkeypatch.setattr(BatchStream, "_mended", lambda *args: spoilt.append(1) or mend(*args))
    options = {"global_batch": 4, "device": CPU, "max_bad": 1.0}

    train = TrainLoader(broken, "train", TAKE, seed=5, **options)
    batches = iter(train)
    list(itertools.islice(batches, 2 * train.steps_per_epoch))
    evaluation = EvalLoader(broken, "train", TAKE, **options)
    list(evaluation)
    assert len(spoilt) >= 2
    spoilt.clear()
    later = [*itertools.islice(batches, 3 * train.steps_per_epoch), *evaluation, *evaluation]
    assert not spoilt
    # Every time it comes it is left out; the last batches are filled up with others.
    wanted = 5 * len(train.index)
    assert sum(int(batch.mask_B.sum()) for batch in later) == wanted - 5
    assert all(3 not in batch.rows_B for batch in later)


@pytest.mark.parametrize(
    "said",
    [
        "CUDA driver API error CUDA_ERROR_OUT_OF_MEMORY (2):\nout of memory",
        "Error in MIXED operator `nvidia.dali.fn.decoders.video`, encountered:\n\nFailed to create video decoder\n",
    ],
)
def test_a_device_that_fails_is_not_taken_for_bad_videos(streams, monkeypatch, said):
    class Failing(CropsOfPictures):
        def graph(self, source):
            graph = super().graph(source)

            class Graph:
                def run(self):
                    graph.run()
                    raise RuntimeError(said)

            return Graph()

    monkeypatch.setattr(decoding, "CropsOfPictures", Failing)
    with pytest.raises(
        DataError, match=r"DALI cannot decode vp9 on cpu: .*(OUT_OF_MEMORY|create video decoder)"
    ) as error:
        loaded(streams, "train", train=True)
    assert "\n" not in str(error.value)


def test_nor_where_it_fails_on_a_video_alone(jpegs, tmp_path, monkeypatch):
    class Failing:
        def run(self):
            raise RuntimeError("CUDA driver API error CUDA_ERROR_OUT_OF_MEMORY (2):\nout of memory")

    broken = copied(jpegs, tmp_path / "broken")
    rewrite_packets(broken, "train", first_frames(jpegs, "train", 1, False), BROKEN["mjpeg"]["Huffman table"])
    monkeypatch.setattr(batch_stream, "picture_graph", lambda *_, **__: Failing())
    with pytest.raises(DataError, match=r"DALI cannot decode mjpeg on cpu: .*OUT_OF_MEMORY"):
        loaded(broken, "train", train=False)


MUTATIONS = 160


def mutated(jpeg, seed):
    """A JPEG with something else in its header, or its scan."""
    draw = np.random.default_rng(seed)
    jpeg, scan = jpeg.copy(), jpeg.tobytes().index(SEGMENT_SOS)
    segments, at = [], 2
    while jpeg[at + 1] != SEGMENT_SOS[1]:
        end = at + 2 + int.from_bytes(jpeg[at + 2 : at + 4].tobytes(), "big")
        segments.append(jpeg[at:end])
        at = end
    match seed % 6:
        case 0:
            where = draw.integers(2, scan + 14, draw.integers(1, 6))
            jpeg[where] = draw.integers(0, 256, len(where))
        case 1:
            jpeg[draw.integers(2, scan + 14)] ^= np.uint8(1 << draw.integers(8))
        case 2:
            jpeg[scan + 14 : -2] = draw.integers(0, 256, len(jpeg) - scan - 16)
        case 3:
            return np.concatenate([jpeg[: draw.integers(scan, len(jpeg) - 2)], jpeg[-2:]])
        case 4:
            which = draw.integers(len(segments))
            segments[which : which + 1] = [segments[which]] * int(draw.choice([0, 2]))
            return np.concatenate([jpeg[:2], *segments, jpeg[scan:]])
        case 5:
            jpeg[scan + 2 : scan + 14] = np.where(
                draw.random(12) < 0.3, draw.integers(0, 256, 12), jpeg[scan + 2 : scan + 14]
            )
    return jpeg


def decode_mutations(packets, size, seeds, sender):
    """Decode each mutation that has a JPEG's form in a batch of sound pictures; send how many did, and did not."""
    feed = []
    graph = None
    decoded = refused = 0
    for seed in seeds:
        changed = mutated(packets[seed % len(packets)], seed)
        # A new one each time: it is to read every head.
        if not JpegHeads().head(changed, *size):
            continue
        if graph is None:
            graph = picture_graph(
                lambda: (feed.pop() if feed else packets,),
                codec="mjpeg",
                pieces=len(packets),
                device=CPU,
                threads=3,
                ahead=2,
            )
        at = seed % len(packets)
        feed.append([*packets[:at], changed, *packets[at + 1 :]])
        try:
            for _ in range(4):
                graph.run()
            decoded += 1
        except RuntimeError:
            refused += 1
            graph = None
    sender.send((decoded, refused))


def test_what_has_a_jpegs_form_never_ends_the_process(jpegs):
    index = jpegs.split("train")
    reader = PacketReader(MappedShards(jpegs.root / "train"), "mjpeg")
    rows = [row for row in index if row.frames > 8]
    packets = [packet.copy() for row in rows for packet in reader.read(reader.announce(row, np.arange(3))).packets]
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    size = (rows[0].width, rows[0].height)
    child = context.Process(target=decode_mutations, args=(packets, size, range(MUTATIONS), sender))
    child.start()
    sender.close()
    child.join()
    assert child.exitcode == 0
    decoded, refused = receiver.recv()
    assert decoded > MUTATIONS // 5
    assert refused > MUTATIONS // 10
