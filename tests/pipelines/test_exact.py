"""What comes of the packets that are needed is, to the last bit, what comes of whole videos: every codec and group."""

from functools import lru_cache, partial
from itertools import islice

import av
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from nvidia.dali import Pipeline, fn, types

from pipelines import EvalLoader, MappedShards, Sampling, TrainLoader, decoding
from pipelines.crop_pictures import cut_crop
from pipelines.decoding import CropsOfPictures
from pipelines.packets import PacketReader, needed_packets
from pipelines.samples import EvalSamples, TrainSamples
from preprocess.datasets.folder import list_folder
from preprocess.ffmpeg import EncodeOptions
from preprocess.index import IVF_PACKET_HEADER, packet_offsets, read_dataset
from preprocess.local import write_shards_locally
from preprocess.run import preprocess
from tests.pipelines.synthetic import CountingShards

CPU = torch.device("cpu")
GROUPS = (1, 4, 8, 12, 32)
# Variable frame rate, odd size, one frame, hidden frames, and others of 64x48; noise is what predicts worst.
VIDEOS = ("vfr.mkv", "odd_size.mkv", "one_frame.mp4", "vp9_alt_ref.webm", "long.mp4")
FRAMES_OF_NOISE = (2, 9, 75)
KINDS = {
    "mjpeg": {"codec": "mjpeg"},
    **{f"vp9, GOP {gop}": {"codec": "vp9", "gop": gop, "layers": 1} for gop in GROUPS},
    **{f"vp9 in layers, GOP {gop}": {"codec": "vp9", "gop": gop, "layers": 3} for gop in GROUPS[1:]},
    **{f"vp9 in 2 layers, GOP {gop}": {"codec": "vp9", "gop": gop, "layers": 2} for gop in (8, 32)},
}


@pytest.fixture(scope="module")
def make(video, run_ffmpeg, tmp_path_factory):
    """A function: the videos preprocessed with some options, as they are in size."""
    root, shards = tmp_path_factory.mktemp("videos"), tmp_path_factory.mktemp("shards")
    for folder in ("a", "b"):
        (root / folder).mkdir()
    for name in VIDEOS:
        (root / "a" / name).symlink_to(video(name))
    for frames in FRAMES_OF_NOISE:
        noise = ["-f", "lavfi", "-i", "testsrc2=size=64x48:rate=30,noise=alls=40:allf=t", "-frames:v", frames]
        run_ffmpeg(*noise, "-c:v", "ffv1", root / "b" / f"{frames}.mkv")

    @lru_cache
    def of(name, **options):
        executor = partial(write_shards_locally, workers=2)
        preprocess(list_folder(root, 0), shards / name, EncodeOptions("none", **options), executor, shard_size=3)
        return read_dataset(shards / name)

    return of


@lru_cache
def whole_video(root, codec, row_number):
    """Every frame of a video as DALI decodes the whole of it, (frames, H, W, C) uint8."""
    row = read_dataset(root).split("train")[row_number]
    member = np.array(MappedShards(root / "train").read(row.shard, row.offset, row.size))
    pieces = [member] if codec != "mjpeg" else np.split(member, np.cumsum(row.packet_bytes)[:-1])
    graph = Pipeline(batch_size=len(pieces), num_threads=2, device_id=None, prefetch_queue_depth=1)
    with graph:
        data = fn.external_source(source=lambda: pieces, batch=True, dtype=types.UINT8, ndim=1)
        decoded = fn.decoders.video(data, device="cpu") if codec != "mjpeg" else fn.decoders.image(data, device="cpu")
        graph.set_outputs(decoded)
    graph.build()
    (output,) = graph.run()
    pictures = np.array(output.as_array())
    pictures = pictures if codec == "mjpeg" else pictures[0]
    assert pictures.shape == (row.frames, row.height, row.width, 3)
    return torch.from_numpy(pictures)


samplings = st.builds(
    Sampling,
    units=st.integers(1, 6),
    frames=st.integers(1, 6),
    stride=st.integers(1, 12),
    crop=st.sampled_from([16, 40, 48, 90]),
    fit_stride=st.booleans(),
    keyframe_starts=st.booleans(),
)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=8)
@given(take=samplings, seed=st.integers(0, 2**63 - 1), batch=st.integers(1, 5), train=st.booleans())
def test_batches_are_the_crops_of_whole_videos(make, kind, take, seed, batch, train):
    data = make(kind, **KINDS[kind])
    if train:
        loader = TrainLoader(data, "train", take, global_batch=batch, seed=seed, device=CPU)
        plan = TrainSamples(data, "train", take, batch, seed, 0, 1)
    else:
        loader = EvalLoader(data, "train", take, global_batch=batch, device=CPU)
        plan = EvalSamples(data, "train", take, batch, 3, 0, 1)
    seen = set()
    for made, places in zip(islice(loader, plan.steps_per_epoch), plan.batches(0), strict=False):
        assert len(made.crops) == plan.crops
        for at, sample in enumerate(map(plan.sample, places)):
            whole = whole_video(data.root, data.codec, sample.row_number)
            seen.add(sample.row.key)
            for x_NCTHW, crop in zip(made.crops, sample.crops, strict=True):
                wanted = torch.empty((len(sample.frames), take.crop, take.crop, 3), dtype=torch.uint8)
                cut_crop(whole[torch.from_numpy(sample.frames)], None, crop, wanted)
                found = x_NCTHW[at * take.units : (at + 1) * take.units].permute(0, 2, 3, 4, 1).flatten(0, 1)
                assert torch.equal(found, wanted), sample
    assert len(seen) == len(VIDEOS) + len(FRAMES_OF_NOISE)


@pytest.mark.parametrize("streams", [1, 3])
def test_clips_of_several_sizes_lie_in_few_streams(make, monkeypatch, streams):
    """As they do on a GPU; here on the CPU."""
    data = make("vp9 in layers, GOP 8", **KINDS["vp9 in layers, GOP 8"])
    counts = []

    class InFewStreams(CropsOfPictures):
        def inputs(self, batch):
            self._most_streams = streams
            given = super().inputs(batch)
            counts.append(len(given[0]))
            return given

    def batches():
        take = Sampling(3, 2, 5, 40)
        return islice(TrainLoader(data, "train", take, global_batch=7, seed=3, device=CPU), 6)

    apart = list(batches())
    monkeypatch.setattr(decoding, "CropsOfPictures", InFewStreams)
    for together, wanted in zip(batches(), apart, strict=True):
        assert together.keys == wanted.keys
        assert torch.equal(together.x, wanted.x)
    # The videos are of two sizes.
    assert set(counts) <= set(range(1, streams + 2))


def decoded_by_pyav(packets):
    """H.264 packets as their pictures, Y, Cb and Cr one below the other."""
    decoder = av.CodecContext.create("h264", "r")
    decoder.thread_count = 1
    frames = [f for packet in [*map(av.Packet, packets), None] for f in decoder.decode(packet)]
    assert len(frames) == len(packets)
    return np.stack([frame.to_ndarray() for frame in frames])


@pytest.mark.parametrize("gop", GROUPS)
def test_needed_packets_of_h264_decode_to_the_frames_of_whole_videos(make, gop):
    """DALI decodes H.264 on a GPU alone (see test_loader_gpu.py); ffmpeg's own decoder says the same of the packets."""
    data = make(f"h264, GOP {gop}", codec="h264", gop=gop)
    reader, draw = PacketReader(MappedShards(data.root / "train"), "h264"), np.random.default_rng(gop)
    store = MappedShards(data.root / "train")
    for row in data.split("train"):
        begins = row.offset + packet_offsets("h264", row.packet_bytes)
        assert begins[0] == row.offset + 32 + IVF_PACKET_HEADER
        whole = [bytes(store.read(row.shard, b, n)) for b, n in zip(begins.tolist(), row.packet_bytes, strict=True)]
        wanted = decoded_by_pyav(whole)
        for _ in range(12):
            frames = draw.integers(0, row.frames, draw.integers(1, 17))
            clip = reader.read(reader.announce(row, frames))
            found = decoded_by_pyav([bytes(packet) for packet in clip.packets])
            assert np.array_equal(found[clip.positions[clip.take]], wanted[frames]), (row.key, frames)
            assert gop > 1 or len(clip.packets) == len(set(frames.tolist()))


@pytest.mark.parametrize("kind", ["mjpeg", "vp9, GOP 8", "vp9 in layers, GOP 32"])
def test_evaluation_reads_and_decodes_once_for_all_crops(make, monkeypatch, kind):
    data, take, given = make(kind, **KINDS[kind]), Sampling(5, 4, 8, 48), []

    class Noted(CropsOfPictures):
        def inputs(self, batch):
            given.extend(packets for _, packets in batch)
            return super().inputs(batch)

    monkeypatch.setattr(decoding, "CropsOfPictures", Noted)
    store = CountingShards(data.root / "train")
    batches = list(EvalLoader(data, "train", take, global_batch=2, device=CPU, store=store))
    assert {len(batch.crops) for batch in batches} == {3}
    plan = EvalSamples(data, "train", take, 2, 3, 0, 1)
    samples = [plan.sample(place) for places in plan.batches(0) for place in places]
    needed = [needed_packets(sample.row.packet_back, set(sample.frames.tolist())) for sample in samples]
    assert store.reads == sum(map(len, needed))
    assert [len(packets.packets) for packets in given] == list(map(len, needed))
    assert [len(packets.positions) for packets in given] == [len(set(sample.frames.tolist())) for sample in samples]
