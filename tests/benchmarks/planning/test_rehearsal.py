"""An epoch is shared out exactly, whatever the number of ranks; and a rehearsal at the largest size stays small."""

import json
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.planning import rehearsal
from benchmarks.planning.rehearsal import rehearse
from pipelines.order import rank_slice, train_order


def every_rank(videos, global_batch, ranks):
    """The videos of each rank in each step, asked for one by one: (steps, ranks) lists of those that count."""
    order = train_order(videos, 0, 0)
    found = []
    for step in range(-(-videos // global_batch)):
        of_step = [rank_slice(order, step, global_batch, rank, ranks) for rank in range(ranks)]
        found.append([samples[valid].tolist() for samples, valid in of_step])
    return found


@given(videos=st.integers(1, 300), share=st.integers(1, 7), ranks=st.integers(1, 9))
@settings(max_examples=15)
def test_the_balance_is_that_of_every_rank_asked_by_itself(videos, share, ranks):
    found = rehearse(videos, share * ranks, ranks).balance
    expected = every_rank(videos, share * ranks, ranks)
    counts = [sum(len(of_step[rank]) for of_step in expected) for rank in range(ranks)]
    assert found.exact
    assert (found.steps, found.share) == (len(expected), share)
    assert (found.fewest, found.most) == (min(counts), max(counts))
    assert found.padded == len(expected) * share * ranks - videos
    assert sorted(n for of_step in expected for of_rank in of_step for n in of_rank) == list(range(videos))


@pytest.mark.parametrize("wrong", ["twice the same rank", "a video left out", "one that does not count, counted"])
def test_an_order_that_is_wrong_is_seen(wrong, monkeypatch):
    def spoilt(order, step, global_batch, rank, ranks):
        if wrong == "twice the same rank" and rank == 1:
            rank = 0
        samples, valid = rank_slice(order, step, global_batch, rank, ranks)
        if wrong == "a video left out" and step == 0:
            valid = np.concatenate([[False], valid[1:]])
        if wrong == "one that does not count, counted":
            valid = np.ones_like(valid)
        return samples, valid

    assert rehearse(100, 16, 4).balance.exact
    monkeypatch.setattr(rehearsal, "rank_slice", spoilt)
    assert not rehearse(100, 16, 4).balance.exact


def test_ranks_that_do_not_divide_the_batch():
    with pytest.raises(ValueError, match="a global batch of 10 does not divide over 4 ranks"):
        rehearse(100, 10, 4)


def test_memory_grows_with_the_videos():
    few, many = rehearse(16_384, 64, 2), rehearse(65_536, 64, 2)
    assert (few.order_bytes, many.order_bytes) == (2 * 8 * 16_384, 2 * 8 * 65_536)
    assert many.index_bytes == pytest.approx(4 * few.index_bytes, rel=0.1)
    assert few.rank_bytes == few.order_bytes + few.index_bytes
    # About 32 shards, up to 256 videos in each: as ``v4d preprocess`` plans them.
    assert (few.shards, few.videos_in_shard) == (64, 256)
    assert (many.shards, many.videos_in_shard) == (256, 256)


LARGEST = """
import json, re
from dataclasses import asdict
from pathlib import Path
from benchmarks.planning.rehearsal import rehearse
found = rehearse(10_000_000, 16 * 1024, 1024)
# That of this program alone: getrusage counts what the process was before it became this one.
peak = int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])
print(json.dumps({**asdict(found), "peak": peak / 1e3}))
"""


def test_ten_million_videos_on_1024_gpus():
    done = subprocess.run([sys.executable, "-c", LARGEST], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    # 10,000,000 videos in batches of 16,384 are 610 and a part, which is filled up; 256 make a shard.
    assert found["balance"] == {
        "steps": 611,
        "share": 16,
        "padded": 611 * 16_384 - 10_000_000,
        "fewest": 9_760,
        "most": 9_776,
        "exact": True,
    }
    assert (found["shards"], found["order_bytes"]) == (39_063, 160_000_000)
    assert found["peak"] < 1_000
