"""JPEG packets: their heads, and pictures joined to one without decoding."""

import io
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from pipelines import MappedShards, Sampling
from pipelines.crops import Crop
from pipelines.decoding import CropsInGraph
from pipelines.jpeg import JpegHeads, can_be_joined, coded_rows, joined_pictures, pictures_in_one
from pipelines.packets import PacketReader
from pipelines.samples import EvalSamples, Place, TrainSamples

CPU = torch.device("cpu")


@pytest.fixture(scope="module", params=["160x128", "90x74", "none"])
def data(request, preprocessed):
    return preprocessed(request.param)


def read(data, row, frames):
    reader = PacketReader(MappedShards(data.root / "train"), "mjpeg")
    return reader.read(reader.announce(row, np.asarray(frames)))


def luma(jpeg):
    """(H, W) uint8, without chroma, which PIL smooths over the edges of pictures."""
    picture = Image.open(io.BytesIO(jpeg.tobytes()))
    picture.draft("YCbCr", picture.size)
    return np.asarray(picture)[..., 0]


@pytest.mark.parametrize("count", [1, 2, 8, 9, 20])
def test_joined_pictures_are_those_of_the_packets(data, count):
    for row in data.split("train"):
        packets = read(data, row, np.arange(count) * 3 % row.frames)
        assert can_be_joined(packets.head)
        pictures = [packets.packets[i] for i in packets.take]
        joined = luma(joined_pictures(packets.head, pictures, row.width, row.height))
        rows = coded_rows(row.height)
        assert joined.shape == (rows * count, row.width)
        for at, picture in enumerate(pictures):
            assert np.array_equal(joined[at * rows : at * rows + row.height], luma(picture))


def crops(decoding, batch):
    feed = iter([decoding.inputs(batch)])
    graph = decoding.graph(lambda: next(feed))
    outputs = graph.run()
    return [crop.clone() for crop in decoding.crops(batch, outputs)()]


def down_to_the_edge(row):
    side = min(row.width, row.height)
    return Crop(row.width - side, row.height - side, side, side, True)


@pytest.mark.parametrize("resize", [True, False])
def test_batches_of_joined_pictures_equal_those_of_single_ones(data, resize):
    """On a CPU, which smooths chroma over the edges of pictures too: equal are grey videos. (On a GPU all are.)"""
    take = Sampling(2, 8, 3, 48)
    side = min(min(row.width, row.height) for row in data.split("train"))
    take = take if resize else Sampling(2, 8, 3, side)
    samples = TrainSamples(data, "train", take, 4, 0, 0, 1) if resize else EvalSamples(data, "train", take, 4, 3, 0, 1)
    if not resize and data.size is None:
        pytest.skip("crops are cut without a filter where all videos are of one size")
    reader = PacketReader(MappedShards(data.root / "train"), "mjpeg")
    size = tuple(max(getattr(row, name) for row in data.split("train")) for name in ("width", "height"))
    padded = data.size is None or coded_rows(size[1]) != size[1]
    grey = data.classes.index("cells")
    plans = [samples.sample(Place(0, number, True)) for number in range(len(samples))]
    of_grey = [(plan, reader.read(reader.announce(plan.row, plan.frames))) for plan in plans if plan.label == grey]
    assert len(of_grey) == 5
    if resize:
        # Down to the last row, below which there are rows that are not to be seen.
        of_grey = [(replace(plan, crops=(down_to_the_edge(plan.row),)), packets) for plan, packets in of_grey]
    for batch in (of_grey[:4], of_grey[1:]):
        made = {}
        for in_one in (1, 4, 16):
            decoding = CropsInGraph(take, len(batch), samples.crops, resize, size, padded, CPU, 1, 1)
            decoding._in_one = in_one
            decoding._padded = padded
            made[in_one] = crops(decoding, batch)
        assert len(made[1]) == samples.crops
        for in_one in (4, 16):
            for one, other in zip(made[1], made[in_one], strict=True):
                assert torch.equal(one, other)


def with_restarts(jpeg, head):
    """The same picture, which says that there may be restart markers every 60,000 blocks."""
    scan = head.rindex(b"\xff\xda")
    return np.concatenate([jpeg[:scan], np.frombuffer(b"\xff\xdd\x00\x04\xea\x60", np.uint8), jpeg[scan:]])


def test_pictures_with_other_heads_are_not_joined(data):
    row = next(row for row in data.split("train") if row.frames > 8)
    packets = read(data, row, range(8))
    heads = JpegHeads()
    changed = with_restarts(packets.packets[0], packets.head)
    found = heads.head(changed, row.width, row.height)
    assert found != packets.head
    assert found
    assert not can_be_joined(found)
    assert not can_be_joined(b"")
    # What is known of one picture does not hide what another is.
    assert heads.head(packets.packets[1], row.width, row.height) == packets.head
    assert not heads.head(packets.packets[1][:-1], row.width, row.height)
    assert not heads.head(packets.packets[1], row.width + 1, row.height)


def test_a_batch_with_a_video_that_cannot_be_joined_is_decoded_picture_by_picture(data):
    take = Sampling(2, 8, 3, 32)
    samples = TrainSamples(data, "train", take, 4, 0, 0, 1)
    reader = PacketReader(MappedShards(data.root / "train"), "mjpeg")
    plans = [samples.sample(Place(0, number, True)) for number in range(len(samples))]
    grey = [plan for plan in plans if plan.label == data.classes.index("cells")]
    batch = [(plan, reader.read(reader.announce(plan.row, plan.frames))) for plan in grey[:4]]
    sample, packets = batch[1]
    decoding = CropsInGraph(take, len(batch), 1, True, (160, 128), True, CPU, 1, 1)
    decoding._in_one, decoding._padded = 16, True
    (wanted,) = crops(decoding, batch)
    assert len(decoding.inputs(batch)[0]) == 4
    changed = [with_restarts(packets.packets[0], packets.head), *packets.packets[1:]]
    batch[1] = (sample, type(packets)(packets.row, changed, packets.positions, packets.take))
    assert len(decoding.inputs(batch)[0]) == 4 * 16
    (found,) = crops(decoding, batch)
    assert torch.equal(found, wanted)


def test_how_many_are_joined():
    """They divide the frames of a video, are of no more than 4096 rows, and leave work for all engines of a GPU."""
    assert pictures_in_one(64, 16, (320, 256)) == 16
    assert pictures_in_one(64, 40, (320, 256)) == 10
    assert pictures_in_one(16, 32, (320, 256)) == 16
    assert pictures_in_one(4, 40, (320, 256)) == 5
    assert pictures_in_one(2, 16, (320, 256)) == 1
    assert pictures_in_one(64, 17, (320, 250)) == 1
    assert pictures_in_one(64, 16, (1920, 1080)) == 2
    assert pictures_in_one(64, 16, (8192, 8192)) == 1
    for videos in range(1, 80, 7):
        for frames in range(1, 130, 3):
            k = pictures_in_one(videos, frames, (320, 200))
            assert frames % k == 0
            assert k == 1 or (k * coded_rows(200) <= 4096 and videos * frames // k >= 32)
