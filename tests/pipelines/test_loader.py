"""What the loaders hand out: the right frames, the right pixels, DALI's own memory, the same batches always."""

import itertools
import json

import av
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from pipelines import EvalLoader, MappedShards, Sampling, TrainLoader
from pipelines.crops import TRAIN_DRAWS, multiscale_crop, three_crops
from pipelines.order import train_order
from pipelines.packets import PacketReader
from pipelines.randomness import Purpose, uniform
from pipelines.sampling import centred_units, random_units
from preprocess.errors import DataError
from preprocess.index import read_dataset, shard_name
from tests.pipelines.synthetic import index_alone

CPU = torch.device("cpu")
# Colour conversion: the inverse DCTs of PyAV and DALI may differ by one level in Y, Cb and Cr; 1 + 1.772 rounds to 3.
COLOUR_TOLERANCE = 3
RESIZED_TOLERANCE = COLOUR_TOLERANCE + 1
SAMPLINGS = [
    Sampling(4, 4, 8, 64),
    Sampling(2, 3, 5, 64),
    Sampling(3, 1, 8, 64),
    Sampling(4, 4, 8, 64, fit_stride=True),
]


def decoded_by_pyav(packet):
    """A JPEG as RGB, (H, W, 3) float: decoded by PyAV, chroma raised as libjpeg does, BT.601 at full range."""
    decoder = av.CodecContext.create("mjpeg", "r")
    (frame,) = [*decoder.decode(av.Packet(packet.tobytes())), *decoder.decode(None)]
    assert frame.format.name == "yuvj420p"
    planes = []
    for plane in frame.planes:
        rows = np.frombuffer(plane, np.uint8).reshape(plane.height, plane.line_size)
        planes.append(rows[:, : plane.width].astype(np.int32))
    y, cb, cr = planes[0], raised(planes[1]) - 128.0, raised(planes[2]) - 128.0
    height, width = y.shape
    cb, cr = cb[:height, :width], cr[:height, :width]
    rgb = np.stack([y + 1.402 * cr, y - 0.344136 * cb - 0.714136 * cr, y + 1.772 * cb], axis=-1)
    return np.clip(np.round(rgb), 0, 255)


def decoded(reader, row, frames):
    """Frames of a video of JPEGs, (F, H, W, 3) float, by PyAV."""
    read = reader.read(reader.announce(row, frames))
    return np.stack([decoded_by_pyav(packet) for packet in read.packets])[read.take]


def raised(plane):
    """Twice the size by a triangle filter, the "fancy upsampling" of libjpeg (jdsample.c, h2v2)."""
    rows = np.pad(plane, ((1, 1), (0, 0)), "edge")
    tall = np.empty((2 * plane.shape[0], plane.shape[1]), np.int32)
    tall[0::2], tall[1::2] = 3 * plane + rows[:-2], 3 * plane + rows[2:]
    columns = np.pad(tall, ((0, 0), (1, 1)), "edge")
    wide = np.empty((tall.shape[0], 2 * plane.shape[1]), np.int32)
    wide[:, 0::2], wide[:, 1::2] = (3 * tall + columns[:, :-2] + 8) >> 4, (3 * tall + columns[:, 2:] + 7) >> 4
    return wide


def source_frames(videos, row):
    """The source's own frames at the dataset's size, (N, H, W, 3) float RGB, by another way than the preprocessor's."""
    with av.open(str(videos / row.source)) as container:
        frames = []
        for frame in container.decode(video=0):
            frames.append(frame.reformat(row.width, row.height, "rgb24", interpolation="BICUBIC").to_ndarray())
    return np.stack(frames).astype(np.float64)


def psnr(a, b):
    return 10 * np.log10(255**2 / max(np.mean((a.astype(np.float64) - b) ** 2), 1e-9))


def as_pictures(x_NCTHW, videos):
    """(B·U, C, T, H, W) as (B, U·T, H, W, C), float."""
    return x_NCTHW.permute(0, 2, 3, 4, 1).reshape(videos, -1, *x_NCTHW.shape[3:], 3).numpy().astype(np.float64)


@pytest.mark.parametrize("take", SAMPLINGS, ids=["4x4x8", "2x3x5", "3x1x8", "4x4x8-fit"])
def test_eval_pixels_are_those_of_the_packets_and_of_the_source(dataset, videos, take):
    loader = EvalLoader(dataset, "val", take, global_batch=4, device=CPU)
    reader = PacketReader(MappedShards(dataset.root / "val"), "mjpeg")
    seen = []
    for batch in loader:
        assert len(batch.crops) == 3
        crops = [as_pictures(x, 4) for x in batch.crops]
        for place, number in enumerate(batch.rows_B.tolist()):
            if number < 0:
                assert batch.labels_B[place] == -1
                continue
            row = loader.index[number]
            seen.append(number)
            assert batch.labels_B[place] == row.label
            frames = centred_units(row.frames, take.units, take.frames, take.stride_for(row.frames)).ravel()
            whole = decoded(reader, row, frames)
            source = source_frames(videos, row)
            for pictures, crop in zip(crops, three_crops(row.width, row.height), strict=True):
                there = (slice(None), slice(crop.y, crop.y + crop.height), slice(crop.x, crop.x + crop.width))
                assert np.abs(pictures[place] - whole[there]).max() <= COLOUR_TOLERANCE
                for picture, frame in zip(pictures[place], frames, strict=True):
                    assert psnr(picture, source[frame][there[1:]]) >= 35
                    # No other frame is nearer: the right one is there.
                    nearest = max(range(len(source)), key=lambda i: psnr(picture, source[i][there[1:]]))
                    assert nearest == frame
    assert seen == list(range(len(loader.index)))


@pytest.mark.parametrize("take", SAMPLINGS, ids=["4x4x8", "2x3x5", "3x1x8", "4x4x8-fit"])
def test_train_pixels_are_those_of_the_packets_and_of_the_source(dataset, videos, take):
    seed, batch_size = 5, 3
    loader = TrainLoader(dataset, "train", take, global_batch=batch_size, seed=seed, device=CPU)
    reader = PacketReader(MappedShards(dataset.root / "train"), "mjpeg")
    flips = set()
    for step, batch in enumerate(itertools.islice(loader, 2 * loader.steps_per_epoch)):
        epoch, at = divmod(step, loader.steps_per_epoch)
        order = train_order(len(loader.index), seed, epoch)
        wanted = order[at * batch_size : (at + 1) * batch_size].tolist()
        assert batch.rows_B.tolist() == wanted + [-1] * (batch_size - len(wanted))
        pictures = as_pictures(batch.x, batch_size)
        for place, number in enumerate(wanted):
            row = loader.index[number]
            assert batch.labels_B[place] == row.label
            units = random_units(
                row.frames,
                take.units,
                take.frames,
                take.stride_for(row.frames),
                uniform(seed, Purpose.UNITS, epoch, number, take.units),
            ).ravel()
            crop = multiscale_crop(
                row.width, row.height, uniform(seed, Purpose.CROP, epoch, number, TRAIN_DRAWS), take.scales
            )
            flips.add(crop.flip)
            whole = decoded(reader, row, units)
            source = source_frames(videos, row)[units]
            assert np.abs(pictures[place] - resized(whole, crop, take.crop))[INSIDE].max() <= RESIZED_TOLERANCE
            for picture, original in zip(
                pictures[place][INSIDE], resized(source, crop, take.crop)[INSIDE], strict=True
            ):
                assert psnr(picture, original) >= 35
    assert flips == {True, False}


# At a crop's border DALI's filter sees the pixels beyond it, the reference does not.
INSIDE = (slice(None), slice(2, -2), slice(2, -2))


def resized(pictures, crop, side):
    """Crop, mirror and resize (N, H, W, 3) with a triangle filter."""
    cut = pictures[:, crop.y : crop.y + crop.height, crop.x : crop.x + crop.width]
    cut = cut[:, :, ::-1] if crop.flip else cut
    x = torch.from_numpy(np.ascontiguousarray(cut)).permute(0, 3, 1, 2)
    return F.interpolate(x, (side, side), mode="bilinear", antialias=True).permute(0, 2, 3, 1).numpy()


@pytest.mark.parametrize("kind", [TrainLoader, EvalLoader])
def test_a_tensor_is_channels_last_and_stays_what_it_was(dataset, kind):
    more = {"seed": 0} if kind is TrainLoader else {}
    loader = kind(dataset, "train", Sampling(4, 3, 8, 64), global_batch=2, device=CPU, **more)
    held = []
    for batch in itertools.islice(loader, 4):
        for x in batch.crops:
            assert x.shape == (8, 3, 3, 64, 64)
            assert x.dtype == torch.uint8
            assert x.is_contiguous(memory_format=torch.channels_last_3d)
            held.append((x, x.clone()))
    assert all(torch.equal(x, copy) for x, copy in held)


def test_square_frames_have_one_crop(dataset, tmp_path):
    content = json.loads((dataset.root / "dataset.json").read_text())
    (tmp_path / "val").symlink_to(dataset.root / "val")
    (tmp_path / "dataset.json").write_text(json.dumps({**content, "size": [64, 64]}))
    options = {"global_batch": 2, "device": CPU}
    assert len(next(iter(EvalLoader(read_dataset(tmp_path), "val", SAMPLINGS[0], **options))).crops) == 1
    three = next(iter(EvalLoader(dataset, "val", SAMPLINGS[0], **options)))
    one = next(iter(EvalLoader(dataset, "val", SAMPLINGS[0], crops=1, **options)))
    assert torch.equal(one.x, three.crops[1])


def batches(dataset, steps, **changes):
    state = changes.pop("state", None)
    options = {"global_batch": 4, "seed": 3, "device": CPU, **changes}
    loader = TrainLoader(dataset, "train", Sampling(2, 2, 4, 32), **options)
    if state:
        loader.load_state_dict(state)
    return list(itertools.islice(loader, steps))


def same(a, b):
    return torch.equal(a.x, b.x) and torch.equal(a.labels_B, b.labels_B) and torch.equal(a.rows_B, b.rows_B)


@pytest.mark.parametrize("ranks", [2, 4, 8])
def test_ranks_share_the_same_global_batches(dataset, ranks):
    parts = [batches(dataset, 6, global_batch=8, rank=rank, ranks=ranks) for rank in range(ranks)]
    for whole, *shares in zip(batches(dataset, 6, global_batch=8), *parts, strict=True):
        assert torch.equal(torch.cat([share.x for share in shares]), whole.x)
        assert torch.equal(torch.cat([share.rows_B for share in shares]), whole.rows_B)


def test_threads_change_nothing_and_seeds_do(dataset):
    assert all(same(a, b) for a, b in zip(batches(dataset, 4, threads=1), batches(dataset, 4, threads=3), strict=True))
    assert not all(same(a, b) for a, b in zip(batches(dataset, 4), batches(dataset, 4, seed=4), strict=True))


def test_a_damaged_packet_never_reaches_the_model(dataset, tmp_path):
    damaged = tmp_path / "damaged"
    (damaged / "train").mkdir(parents=True)
    for path in [dataset.root / "dataset.json", *(dataset.root / "train").iterdir()]:
        (damaged / path.relative_to(dataset.root)).write_bytes(path.read_bytes())
    copy = read_dataset(damaged)
    row = copy.split("train")[1]
    at = row.offset + int(row.packet_bytes[0]) // 2
    shard = damaged / "train" / shard_name(row.shard)
    content = bytearray(shard.read_bytes())
    content[at] ^= 1
    shard.write_bytes(content)
    loader = TrainLoader(copy, "train", Sampling(1, row.frames, 1, 32), global_batch=1, seed=0, device=CPU)
    with pytest.raises(
        DataError, match=rf"{shard_name(row.shard)}.*frame 0 of '{row.key}' at byte {row.offset} is damaged"
    ):
        list(itertools.islice(loader, len(loader.index)))


def test_a_missing_shard_is_named(dataset, tmp_path):
    (tmp_path / "train").mkdir()
    for name in ("dataset.json", "train/index.arrow"):
        (tmp_path / name).write_bytes((dataset.root / name).read_bytes())
    loader = EvalLoader(read_dataset(tmp_path), "train", Sampling(1, 1, 1, 64), global_batch=2, device=CPU)
    with pytest.raises(DataError, match=r"shard-00000\.tar cannot be read"):
        next(iter(loader))


def test_a_missing_split_is_named(dataset):
    with pytest.raises(DataError, match="no split 'test': it has train, val"):
        EvalLoader(dataset, "test", Sampling(1, 1, 1, 64), global_batch=2, device=CPU)


def test_an_empty_split_is_named(tmp_path):
    data = index_alone(tmp_path, [])
    for make in (TrainLoader, EvalLoader):
        more = {"seed": 0} if make is TrainLoader else {}
        with pytest.raises(DataError, match=r"the split 'train' of .* holds no video"):
            make(data, "train", Sampling(1, 1, 1, 64), global_batch=2, device=CPU, **more)


def test_ranks_must_divide_the_batch(dataset):
    with pytest.raises(ValueError, match="5 does not divide over 2"):
        batches(dataset, 1, global_batch=5, ranks=2)
