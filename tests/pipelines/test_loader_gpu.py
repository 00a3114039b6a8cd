"""The loaders on a GPU: against the same on the CPU, and against whole videos decoded on the same GPU.

V4D_TEST_DATA names preprocessed datasets, with ':' between them, for machines without ffmpeg; else small ones of every
codec are made.
"""

import itertools
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from nvidia.dali import Pipeline, fn, types
from torch.utils.dlpack import from_dlpack

from pipelines import EvalLoader, MappedShards, Sampling, TrainLoader, jpeg
from pipelines.crop_pictures import cut_crop
from pipelines.graph import picture_graph
from pipelines.packets import PacketReader, clip_stream
from pipelines.samples import EvalSamples, TrainSamples
from preprocess.index import read_dataset
from tests.pipelines.broken import assert_bad_rows_only_are_masked, copied, flip_bits, places, rewrite_packets

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
GPU = torch.device("cuda", 0)
# What is made where no dataset is named. A GPU decodes no VP9 of less than 128 pixels a side, and no H.264 of GOP 1.
MADE = {"mjpeg": {}, "vp9": {"gop": 8}, "h264": {"gop": 8}}
NAMED = [name for name in os.environ.get("V4D_TEST_DATA", "").split(":") if name]
# Mean and largest difference to the CPU. nvJPEG is not libjpeg-turbo: on an H200 the mean was 0.58 and the largest 44.
# Of VP9 it was at most 2 in the decoded pictures, to which resizing may add 1 by rounding.
TOLERANCES = {"mjpeg": (1.5, 64), "vp9": (1.5, 3)}
MOST_FRAMES = 600


@pytest.fixture(scope="module", params=NAMED or MADE)
def data(request):
    if NAMED:
        return read_dataset(Path(request.param))
    return request.getfixturevalue("preprocessed")("160x128", codec=request.param, **MADE[request.param])


def compact(data):
    if data.codec == "mjpeg":
        pytest.skip("JPEGs lie in no stream")
    return data


def side(data):
    return min(data.size) if data.size else 224


def split_of(data):
    return "val" if data.splits.get("val", {}).get("videos") else "train"


def loaders(data, device):
    crop, split = side(data), split_of(data)
    train = TrainLoader(data, "train", Sampling(4, 4, 8, crop), global_batch=2, seed=1, device=device)
    test = EvalLoader(data, split, Sampling(5, 4, 8, crop), global_batch=2, device=device)
    return itertools.chain(itertools.islice(train, 6), itertools.islice(test, 20))


def test_the_gpu_gives_the_batches_of_the_cpu(data):
    if data.codec not in TOLERANCES:
        pytest.skip(f"no CPU decodes {data.codec} here")
    worst = mean = 0.0
    for on_gpu, on_cpu in zip(loaders(data, GPU), loaders(data, torch.device("cpu")), strict=True):
        assert torch.equal(on_gpu.rows_B, on_cpu.rows_B)
        assert torch.equal(on_gpu.labels_B, on_cpu.labels_B)
        for x, y in zip(on_gpu.crops, on_cpu.crops, strict=True):
            assert x.device.type == "cuda"
            assert x.dtype == torch.uint8
            assert x.is_contiguous(memory_format=torch.channels_last_3d)
            difference = (x.cpu().int() - y.int()).abs().float()
            worst, mean = max(worst, difference.max().item()), max(mean, difference.mean().item())
    print(f"\n{data.codec}, GPU against CPU: largest difference {worst:.0f}, largest mean of a batch {mean:.2f}")
    most_mean, most = TOLERANCES[data.codec]
    assert mean <= most_mean
    assert worst <= most


def test_joined_pictures_equal_single_ones(data, monkeypatch):
    """JPEGs of a video as one, down to the last row, in colour: a GPU smooths nothing over the edges of pictures."""
    if data.codec != "mjpeg":
        pytest.skip("other codecs lie in streams")
    batches = {}
    for least_pieces in (1, 10**9):
        monkeypatch.setattr(jpeg, "_LEAST_PIECES", least_pieces)
        batches[least_pieces] = [crop.clone() for batch in loaders(data, GPU) for crop in batch.crops]
    monkeypatch.undo()
    assert batches[1]
    assert all(torch.equal(one, other) for one, other in zip(*batches.values(), strict=True))


def whole_video(data, split, row):
    """Every frame of a video, (frames, H, W, C) uint8 on the GPU: its member of the shard as it is, in one go."""
    member = np.array(MappedShards(data.root / split).read(row.shard, row.offset, row.size))
    if data.codec == "mjpeg":
        ends = np.cumsum(row.packet_bytes)
        pieces = [member[end - size : end] for end, size in zip(ends, row.packet_bytes, strict=True)]
    else:
        pieces = [member]
    graph = Pipeline(batch_size=len(pieces), num_threads=2, device_id=0, prefetch_queue_depth=1)
    with graph:
        packets = fn.external_source(source=lambda: pieces, batch=True, dtype=types.UINT8, ndim=1)
        if data.codec == "mjpeg":
            decoded = fn.decoders.image(packets, device="mixed", output_type=types.RGB, hw_decoder_load=1.0)
        else:
            decoded = fn.decoders.video(packets, device="mixed")
        graph.set_outputs(decoded)
    graph.build()
    (output,) = graph.run()
    pictures = from_dlpack(output.as_tensor()).clone()
    torch.cuda.synchronize()
    return pictures if data.codec == "mjpeg" else pictures[0]


def decoded_stream(codec, stream, positions):
    graph = picture_graph(lambda: ([stream], [positions]), codec=codec, pieces=1, device=GPU, threads=2, ahead=1)
    (output,) = graph.run()
    pictures = from_dlpack(output[0]).clone()
    torch.cuda.synchronize()
    return pictures


def rows_of(data, split, count=6):
    return [row for row in itertools.islice(data.split(split), 40) if row.frames <= MOST_FRAMES][:count]


def test_clips_in_one_stream_are_the_frames_of_their_whole_videos(data):
    split, draw = split_of(compact(data)), np.random.default_rng(4)
    reader = PacketReader(MappedShards(data.root / split), data.codec)
    rows = [row for row in rows_of(data, split) for _ in range(2)]
    wholes = {row.key: whole_video(data, split, row) for row in rows}
    worst = frames_seen = 0
    for _ in range(10):
        asked = [draw.integers(0, row.frames, draw.integers(1, 17)) for row in rows]
        clips = [reader.read(reader.announce(row, frames)) for row, frames in zip(rows, asked, strict=True)]
        sizes = {(clip.row.width, clip.row.height) for clip in clips}
        for size in sizes:
            of_size = [i for i, clip in enumerate(clips) if (clip.row.width, clip.row.height) == size]
            stream, positions = clip_stream(data.codec, [clips[i] for i in of_size])
            decoded = decoded_stream(data.codec, stream, positions).split([len(clips[i].positions) for i in of_size])
            for i, pictures in zip(of_size, decoded, strict=True):
                wanted = wholes[rows[i].key][torch.from_numpy(asked[i]).to(GPU)]
                got = pictures[torch.from_numpy(clips[i].take).to(GPU)]
                worst = max(worst, (got.int() - wanted.int()).abs().max().item())
                frames_seen += len(asked[i])
    print(f"\n{data.codec}, clips in one stream against whole videos: {frames_seen} frames, largest difference {worst}")
    assert worst == 0


def test_batches_are_the_crops_of_whole_videos(data):
    split, crop = split_of(data), side(data)
    test, train = Sampling(5, 4, 8, crop), Sampling(3, 3, 5, crop)
    pairs = [(EvalLoader(data, split, test, global_batch=4, device=GPU), EvalSamples(data, split, test, 4, 3, 0, 1))]
    if data.codec != "mjpeg":
        # JPEGs are resized by DALI, with another filter at the borders of a crop.
        loader = TrainLoader(data, "train", train, global_batch=4, seed=2, device=GPU)
        pairs.append((loader, TrainSamples(data, "train", train, 4, 2, 0, 1)))
    worst = videos = 0
    for loader, plan in pairs:
        resizes = isinstance(loader, EvalLoader) and data.codec == "mjpeg" and not data.size
        if resizes:
            continue
        for batch, step in itertools.islice(zip(loader, plan.batches(0), strict=False), 5):
            samples = [plan.sample(place) for place in step]
            for at, sample in enumerate(samples):
                if sample.row.frames > MOST_FRAMES:
                    continue
                whole = whole_video(data, split if isinstance(loader, EvalLoader) else "train", sample.row)
                take = torch.from_numpy(sample.frames).to(GPU)
                for x, cut in zip(batch.crops, sample.crops, strict=True):
                    wanted = torch.empty((len(sample.frames), crop, crop, 3), dtype=torch.uint8, device=GPU)
                    cut_crop(whole, take, cut, wanted)
                    units = len(x) // len(samples)
                    got = x[at * units : (at + 1) * units].permute(0, 2, 3, 4, 1).flatten(0, 1)
                    worst = max(worst, (got.int() - wanted.int()).abs().max().item())
                videos += 1
    print(f"\n{data.codec}, batches against whole videos: {videos} videos, largest difference {worst}")
    assert worst == 0


def test_tensors_that_are_held_stay_what_they_were(data):
    held = [(x, x.clone()) for batch in loaders(data, GPU) for x in batch.crops]
    torch.cuda.synchronize()
    assert all(torch.equal(x, copy) for x, copy in held)


def test_a_tensor_that_is_dropped_is_read_before_its_memory_is_written_again(data):
    def copies(busy):
        taken = []
        loader = TrainLoader(data, "train", Sampling(4, 4, 8, 224), global_batch=2, seed=1, device=GPU)
        for batch in itertools.islice(loader, 24):
            if busy:
                # Some 20 ms in which the GPU does not get to the copy, while the loader goes on.
                torch.cuda._sleep(40_000_000)
            taken.append(batch.x.clone())
            del batch
            if not busy:
                torch.cuda.synchronize()
        return taken

    assert all(torch.equal(a, b) for a, b in zip(copies(busy=True), copies(busy=False), strict=True))


@pytest.mark.parametrize("train", [True, False], ids=["train", "eval"])
def test_flipped_bits_are_left_out_and_all_else_is_as_it_was(data, tmp_path, train):
    damaged, split = copied(data, tmp_path / "damaged"), "train" if train else split_of(data)
    packets = flip_bits(damaged, split, 0.01, seed=3)
    _, left_out = assert_bad_rows_only_are_masked(data, damaged, split, packets, train=train, device=GPU)
    assert any(left_out)


@pytest.mark.parametrize("how", ["zeros", "garbage"])
def test_packets_that_do_not_decode_are_left_out_and_all_else_is_as_it_was(data, tmp_path, how):
    change = {
        "zeros": lambda packet: bytes(len(packet)),
        "garbage": lambda p: np.random.default_rng(len(p)).bytes(len(p)),
    }
    damaged = copied(data, tmp_path / "damaged")
    sample = places(damaged, "train", train=True)[0][0]
    packets = {(sample.row_number, int(sample.frames[2]))}
    rewrite_packets(damaged, "train", packets, change[how])
    _, left_out = assert_bad_rows_only_are_masked(data, damaged, "train", packets, train=True, device=GPU)
    assert sample.row.key in left_out[0]
