"""Shards: what is announced before it is read, and what is read of a disk."""

import os
import subprocess
import sys
from itertools import islice

import numpy as np
import pytest
import torch

from pipelines import Sampling, TrainLoader
from pipelines.packets import PacketReader
from pipelines.shard_store import MappedShards
from preprocess.index import shard_name
from tests.pipelines.broken import copied, rewrite_packets


class NotingShards(MappedShards):
    """Shards that note what is announced, and what is read."""

    def __init__(self, split_root):
        super().__init__(split_root)
        self.noted = []

    def expect(self, *where):
        self.noted.append(("expect", where))
        super().expect(*where)

    def read(self, *where):
        self.noted.append(("read", where))
        return super().read(*where)


@pytest.mark.parametrize("codec", ["mjpeg", "vp9"])
def test_all_packets_are_announced_before_the_first_is_read(preprocessed, codec):
    data = preprocessed("80x64", codec=codec)
    row = next(row for row in data.split("train") if row.frames > 17)
    store = NotingShards(data.root / "train")
    reader = PacketReader(store, codec)
    reader.read(reader.announce(row, np.array([9, 1, 17])))
    half = len(store.noted) // 2
    assert half >= 3
    assert {what for what, _ in store.noted[:half]} == {"expect"}
    assert store.noted[half:] == [("read", where) for _, where in store.noted[:half]]


@pytest.mark.parametrize("size", [0, 1, 5000])
def test_nothing_of_a_shard_that_was_cut_short_can_be_announced(tmp_path, size):
    (tmp_path / shard_name(0)).write_bytes(bytes(size))
    store = MappedShards(tmp_path)
    for offset in (0, 1, 4096, 8192, 10_000):
        store.expect(0, offset, 3000)
        assert len(store.read(0, offset, 3000)) == min(3000, max(0, size - offset))


READ_HERE_AND_THERE = """
import sys
from pathlib import Path
from pipelines.shard_store import MappedShards

def from_disk():
    return int(Path("/proc/self/io").read_text().partition("\\nread_bytes: ")[2].split()[0])

store, before = MappedShards(Path(sys.argv[1])), from_disk()
places = [(0, offset, 3000) for offset in range(0, 16 << 20, 1 << 18)]
for place in places:
    store.expect(*place)
for place in places:
    store.read(*place).sum()
print(len(places), from_disk() - before)
"""


def test_what_is_not_used_is_not_read_from_the_disk(tmp_path):
    path = tmp_path / shard_name(0)
    path.write_bytes(os.urandom(16 << 20))
    with open(path, "rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    line = [sys.executable, "-c", READ_HERE_AND_THERE, str(tmp_path)]
    places, read = map(int, subprocess.run(line, capture_output=True, text=True, check=True).stdout.split())
    if not read:
        pytest.skip("this folder lies in memory")
    # A page or two for each, and what belongs to Python itself.
    assert read < places * 3 * 4096 + (4 << 20)


def test_a_batch_is_announced_before_it_is_read(preprocessed):
    """At least half of it: two threads read a part of a batch each."""
    data = preprocessed("80x64")
    store, take = NotingShards(data.root / "train"), Sampling(2, 2, 2, 32)
    next(iter(TrainLoader(data, "train", take, global_batch=8, seed=0, device=torch.device("cpu"), store=store)))
    first_read = next(i for i, (what, _) in enumerate(store.noted) if what == "read")
    # Of four videos, with two or more different frames each.
    assert first_read >= 8


class FailingShards(MappedShards):
    """Shards of which one read fails."""

    def __init__(self, split_root, at, error):
        super().__init__(split_root)
        self.left, self.error = at, error

    def read(self, *where):
        self.left -= 1
        if not self.left:
            raise self.error
        return super().read(*where)


@pytest.mark.parametrize(
    "error", [RuntimeError("the pool is closed"), StopIteration(), KeyError("token"), OSError("no")]
)
@pytest.mark.parametrize("broken", [False, True], ids=["sound", "one does not decode"])
def test_what_a_store_raises_ends_the_run(preprocessed, tmp_path, error, broken):
    """It is neither taken for a fault of a video, nor for the end; and no batch is lost."""
    data = preprocessed("80x64", codec="vp9", gop=8)
    if broken:
        data = copied(data, tmp_path / "broken")
        packets = [(number, 0) for number, row in enumerate(data.split("train")) if row.frames > 60]
        rewrite_packets(data, "train", packets, lambda packet: packet[:9] + bytes(len(packet) - 9))
    more = {"global_batch": 2, "seed": 0, "device": torch.device("cpu"), "max_bad": 1.0}
    take, steps = Sampling(2, 2, 2, 32), 8
    whole = [batch.rows_B.tolist() for batch in islice(TrainLoader(data, "train", take, **more), steps)]
    store, given = FailingShards(data.root / "train", 90, error), []
    # Python makes a RuntimeError of a StopIteration that ends a generator.
    with pytest.raises(RuntimeError if isinstance(error, StopIteration) else type(error)):
        for batch in TrainLoader(data, "train", take, store=store, **more):
            given.append(batch.rows_B.tolist())
    assert given == whole[: len(given)]
