"""Damaged bytes: what needs them is left out, nothing else is, and too much of it ends the run."""

import logging
import os
import re

import pytest

from pipelines import EvalLoader, TrainLoader
from pipelines.bad_videos import BadVideos
from preprocess.errors import DataError
from preprocess.index import shard_name
from tests.pipelines.broken import (
    CPU,
    TAKE,
    assert_bad_rows_only_are_masked,
    copied,
    flip_bits,
    loaded,
    place_of,
)


@pytest.fixture(params=["mjpeg", "vp9"])
def sound(request, preprocessed):
    """80×64 pixels, 10 videos in three shards in each split; of VP9 with a keyframe every eight frames."""
    return preprocessed("80x64", codec=request.param, **({"gop": 8} if request.param == "vp9" else {}))


@pytest.mark.parametrize("train", [True, False], ids=["train", "eval"])
def test_one_packet_in_a_hundred_is_damaged(sound, tmp_path, caplog, train):
    split = "train" if train else "val"
    seen = set()
    for seed in range(4):
        damaged = copied(sound, tmp_path / str(seed))
        packets = flip_bits(damaged, split, 0.01, seed)
        caplog.clear()
        with caplog.at_level(logging.WARNING, "pipelines"):
            (loader,), left_out = assert_bad_rows_only_are_masked(sound, damaged, split, packets, train=train)
        assert loader.bad.in_epoch == len(left_out[1])
        assert_named_once(caplog.records, damaged, split, packets, {*left_out[0], *left_out[1]})
        seen |= {*left_out[0], *left_out[1]}
    assert len(seen) > 2


def assert_named_once(records, damaged, split, packets, keys):
    """Each key has a line with a packet of ``packets`` and where it lies."""
    line = r"/(shard-\d+\.tar): the packet of frame (\d+) of '(.*)' at byte (\d+) is damaged: left out$"
    found = [re.search(line, record.getMessage()) for record in records]
    assert sorted(match[3] for match in found) == sorted(keys)
    numbers = {row.key: number for number, row in enumerate(damaged.split(split))}
    for match in found:
        packet = numbers[match[3]], int(match[2])
        assert packet in packets
        shard, begin, _ = place_of(damaged, split, *packet)
        assert (match[1], int(match[4])) == (shard.name, begin)


@pytest.mark.parametrize("train", [True, False], ids=["train", "eval"])
def test_two_ranks_leave_out_what_one_does(sound, tmp_path, train):
    damaged = copied(sound, tmp_path / "damaged")
    packets = flip_bits(damaged, "train", 0.02, 7)
    loaders, left_out = assert_bad_rows_only_are_masked(sound, damaged, "train", packets, train=train, ranks=2)
    assert left_out[1]
    assert sum(loader.bad.in_epoch for loader in loaders) == len(left_out[1])


def damage(shard, how):
    size = shard.stat().st_size
    with open(shard, "r+b") as file:
        if how == "zeros":
            file.write(bytes(size))
        else:
            file.truncate({"empty": 0, "half": size // 2}[how])


@pytest.mark.parametrize("how", ["zeros", "empty", "half"])
def test_a_whole_shard_is_damaged(sound, tmp_path, how):
    damaged = copied(sound, tmp_path / "damaged")
    shard = damaged.root / "train" / shard_name(1)
    size = shard.stat().st_size
    damage(shard, how)
    kept = size // 2 if how == "half" else 0
    packets = set()
    for number, row in enumerate(sound.split("train")):
        for frame in range(row.frames):
            path, begin, length = place_of(sound, "train", number, frame)
            if path.name == shard.name and begin + length > kept:
                packets.add((number, frame))
    for train in (True, False):
        _, left_out = assert_bad_rows_only_are_masked(sound, damaged, "train", packets, train=train)
        assert left_out[0] or how == "half"


def test_a_run_goes_on_up_to_the_limit_and_ends_beyond_it(sound, tmp_path):
    damaged = copied(sound, tmp_path / "damaged")
    packets = flip_bits(damaged, "val", 0.05, 2)
    _, ((*_, last), _) = assert_bad_rows_only_are_masked(sound, damaged, "val", packets, train=False)
    (_, (loader,)) = loaded(damaged, "val", train=False)
    bad, videos = loader.bad.in_epoch, len(loader.index)
    assert 1 < bad < videos
    loaded(damaged, "val", train=False, max_bad=bad / videos)
    with pytest.raises(
        DataError,
        match=rf"^{bad} of {videos} videos cannot be loaded, more than --max-bad 0\.\d+ allows; the last: .*/val/"
        rf"shard-0000\d\.tar: the packet of frame \d+ of '{re.escape(last)}' at byte \d+ is damaged: restore",
    ) as error:
        loaded(damaged, "val", train=False, max_bad=(bad - 0.5) / videos)
    assert "\n" not in str(error.value)


def test_a_rank_leaves_the_limit_to_who_knows_the_sum(sound, tmp_path):
    damaged = copied(sound, tmp_path / "damaged")
    flip_bits(damaged, "val", 0.05, 2)
    _, loaders = loaded(damaged, "val", train=False, ranks=2, max_bad=0.0)
    total = sum(loader.bad.in_epoch for loader in loaders)
    with pytest.raises(DataError, match=f"^{total} of 10 videos cannot be loaded"):
        loaders[0].bad.check(total, loaders[0].bad.last)


def test_each_time_through_a_split_is_counted_by_itself(sound, tmp_path, caplog):
    damaged = copied(sound, tmp_path / "damaged")
    flip_bits(damaged, "val", 0.05, 2)
    loader = EvalLoader(damaged, "val", TAKE, global_batch=2, device=CPU, max_bad=1.0)
    counts = []
    for _ in range(3):
        list(loader)
        counts.append(loader.bad.in_epoch)
    assert counts[0] > 0 and counts == counts[:1] * 3
    # What is mended meanwhile does not count any more.
    for name in ("shard-00000.tar", "shard-00001.tar", "shard-00002.tar"):
        (damaged.root / "val" / name).write_bytes((sound.root / "val" / name).read_bytes())
    list(EvalLoader(damaged, "val", TAKE, global_batch=2, device=CPU, max_bad=0.0))
    list(loader)
    assert loader.bad.in_epoch == 0


@pytest.mark.parametrize("train", [True, False], ids=["train", "eval"])
def test_nothing_is_sound(sound, tmp_path, train):
    damaged = copied(sound, tmp_path / "damaged")
    for shard in (damaged.root / "train").glob("*.tar"):
        os.truncate(shard, 512)
    with pytest.raises(DataError, match=r"10 videos one after the other cannot be loaded; the first: .* is damaged"):
        loaded(damaged, "train", train=train)


def test_a_limit_is_a_share():
    for limit in (-0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match="the share of bad videos is from 0 to 1"):
            BadVideos(limit, 10)
    # 0.29 * 100 is less than 29.
    assert not BadVideos(0.29, 100).are_too_many(29)
    assert BadVideos(0.29, 100).are_too_many(30)
    assert not BadVideos(0.0, 0).are_too_many(0)


def test_the_default_lets_one_in_a_thousand_pass(sound):
    for kind, more in ((TrainLoader, {"seed": 0}), (EvalLoader, {})):
        assert kind(sound, "train", TAKE, global_batch=2, device=CPU, **more).bad.limit == 0.001
