"""Shards: what is announced before it is read, and what is read of a disk."""

import os
import subprocess
import sys

import numpy as np
import pytest

from pipelines.packets import PacketReader
from pipelines.shard_store import MappedShards
from preprocess.index import shard_name


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
    PacketReader(store, codec).read(row, np.array([9, 1, 17]))
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
