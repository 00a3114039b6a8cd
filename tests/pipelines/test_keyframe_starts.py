"""Units that start on keyframes: of a compact codec nothing is decoded that is not used."""

from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
import torch

from pipelines import Sampling, TrainLoader
from pipelines.packets import PacketReader
from pipelines.samples import EvalSamples, TrainSamples
from tests.pipelines.synthetic import CountingShards, preprocessed

CPU = torch.device("cpu")
TAKE = Sampling(4, 4, 8, 48, keyframe_starts=True)


@pytest.fixture(scope="module")
def gop_8(videos, tmp_path_factory):
    """The videos, of 1 to 128 frames, as VP9 with a keyframe every 8 frames."""
    from preprocess.datasets.folder import list_folder

    listing = list_folder(videos, val_fraction=0)
    return preprocessed(listing, tmp_path_factory.mktemp("shards") / "gop8", "80x64", codec="vp9", gop=8, layers=1)


def samples_of(dataset, take, epochs=3):
    plan = TrainSamples(dataset, "train", take, 1, 4, 0, 1)
    return [plan.sample(place) for (place,) in islice(plan.batches(0), epochs * len(plan))]


def decoded_and_used(dataset, take):
    reader = PacketReader(CountingShards(dataset.root / "train"), dataset.codec)
    read = [reader.read(reader.announce(sample.row, sample.frames)) for sample in samples_of(dataset, take)]
    return sum(len(video.packets) for video in read), sum(len(video.positions) for video in read)


def test_as_many_frames_are_decoded_as_are_used(gop_8):
    decoded, used = decoded_and_used(gop_8, TAKE)
    assert decoded / used == 1.0
    # Without, a frame costs all those since its keyframe.
    decoded, used = decoded_and_used(gop_8, replace(TAKE, keyframe_starts=False))
    assert decoded / used > 2.5


def test_every_frame_that_is_used_is_a_keyframe(gop_8):
    starts = {}
    for sample in samples_of(gop_8, TAKE, epochs=12):
        assert not sample.row.packet_back[sample.frames].any()
        starts.setdefault(sample.row.key, set()).update(sample.frames[::4].tolist())
    # 128 frames in sections of 32: one start fits each.
    assert {frozenset(of) for of in starts.values() if max(of) >= 96} == {frozenset({0, 32, 64, 96})}
    # 60 frames in sections of 15: a unit spans 25 and lies around its centre.
    assert any({0, 8, 16, 24, 32, 40} <= of <= set(range(0, 60, 8)) for of in starts.values())


def test_the_loader_reads_the_packets_of_the_frames_it_uses_alone(gop_8):
    loader_of = {}
    for starts in (True, False):
        store = CountingShards(gop_8.root / "train")
        take = replace(TAKE, keyframe_starts=starts)
        loader = TrainLoader(gop_8, "train", take, global_batch=10, seed=4, device=CPU, store=store)
        batch = next(iter(loader))
        loader_of[starts] = batch, store
    assert loader_of[True][1].reads < 0.5 * loader_of[False][1].reads
    # The pictures are those of the frames of the plan.
    batch, _ = loader_of[True]
    reader = PacketReader(CountingShards(gop_8.root / "train"), "vp9")
    for place, row in enumerate(batch.rows_B.tolist()):
        sample = next(sample for sample in samples_of(gop_8, TAKE, 1) if sample.row_number == row)
        assert reader.read(reader.announce(sample.row, sample.frames)).positions.tolist() == list(
            range(len(set(sample.frames)))
        )
        pictures = batch.x[4 * place : 4 * place + 4].permute(0, 2, 1, 3, 4).reshape(16, -1)
        _, as_first = np.unique(sample.frames, return_inverse=True)
        # Places of one frame show the same, and of two frames not.
        same = torch.cdist(pictures.float(), pictures.float(), p=float("inf")) == 0
        assert torch.equal(same, torch.from_numpy(as_first[:, None] == as_first[None]))


def test_other_strides_and_layers_start_on_keyframes_too(videos, tmp_path):
    from preprocess.datasets.folder import list_folder

    layered = preprocessed(list_folder(videos, val_fraction=0), tmp_path / "layers", "80x64", codec="vp9")
    assert layered.options["gop"] > 8
    take = replace(TAKE, stride=5)
    for sample in samples_of(layered, take):
        assert not sample.row.packet_back[sample.frames[::4]].any()
    free = replace(TAKE, keyframe_starts=False)
    decoded, used = decoded_and_used(layered, TAKE)
    decoded_free, used_free = decoded_and_used(layered, free)
    assert decoded / used < decoded_free / used_free


def test_jpegs_are_the_same_with_and_without(dataset):
    for ours, theirs in zip(
        samples_of(dataset, TAKE), samples_of(dataset, replace(TAKE, keyframe_starts=False)), strict=True
    ):
        np.testing.assert_array_equal(ours.frames, theirs.frames)
        assert ours.crops == theirs.crops


def test_evaluation_is_centred_all_the_same(gop_8):
    plans = [EvalSamples(gop_8, "val", replace(TAKE, keyframe_starts=starts), 1, 3, 0, 1) for starts in (True, False)]
    for ours, theirs in zip(*(plan.batches(0) for plan in plans), strict=True):
        frames = [plan.sample(place).frames for plan, (place,) in zip(plans, (ours, theirs), strict=True)]
        np.testing.assert_array_equal(*frames)
