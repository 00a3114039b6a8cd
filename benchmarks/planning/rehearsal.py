"""A rehearsal at full size: the very functions of shards, order and index that a run of so many videos will call.

What it finds of balance follows from them alone. Seconds and bytes are of this machine.
"""

from __future__ import annotations

import tempfile
import time
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.large_index import parts
from pipelines.order import rank_share, rank_slice, steps_per_epoch, train_order
from preprocess.ffmpeg import EncodeOptions
from preprocess.index import ROWS_PER_BATCH, Index, write_index
from preprocess.records import VideoRecord
from preprocess.shards import plan_shards

_SEED, _EPOCH = 0, 0
# An index of so many rows is written and read; its memory grows with the rows.
_INDEX_ROWS = 65_536
# So many steps, spread over the epoch, are asked of every rank by itself.
_STEPS_BY_RANK = 16
# The loader holds the order of this epoch and of the next.
_ORDERS_HELD = 2


@dataclass(frozen=True)
class Balance:
    """How an epoch falls on the ranks: each takes ``steps`` steps of ``share`` rows.

    ``padded`` rows of the last step, on all ranks together, count in no loss; ``fewest`` and ``most`` are the videos
    that a rank sees. ``exact`` says that each video was seen once, and that what ranks get of a step, each by itself,
    are the parts of it.
    """

    steps: int
    share: int
    padded: int
    fewest: int
    most: int
    exact: bool


@dataclass(frozen=True)
class Rehearsal:
    """What was found; bytes and seconds are of one rank.

    ``index_bytes`` is the memory of an opened index of which each part was used, ``order_bytes`` that of the orders
    that a loader holds.
    """

    balance: Balance
    shards: int
    videos_in_shard: int
    order_seconds: float
    order_bytes: int
    open_seconds: float
    index_bytes: int
    index_rows: int

    @property
    def start_seconds(self) -> float:
        """Until a rank has its index and its first order."""
        return self.order_seconds + self.open_seconds

    @property
    def rank_bytes(self) -> int:
        """Memory of a rank beside the network and its batches."""
        return self.order_bytes + self.index_bytes


def rehearse(videos: int, global_batch: int, ranks: int) -> Rehearsal:
    """Rehearse an epoch of so many videos. Raises ValueError if ``ranks`` do not divide the global batch."""
    rank_share(global_batch, ranks)
    began = time.perf_counter()
    order = train_order(videos, _SEED, _EPOCH)
    order_seconds = time.perf_counter() - began
    balance = _balance(order, global_batch, ranks)
    shards, largest = _shards(videos)
    opened, of_index = _index(min(videos, _INDEX_ROWS))
    rows = min(videos, _INDEX_ROWS)
    return Rehearsal(
        balance=balance,
        shards=shards,
        videos_in_shard=largest,
        order_seconds=order_seconds,
        order_bytes=_ORDERS_HELD * order.nbytes,
        open_seconds=opened * videos / rows,
        index_bytes=round(of_index * videos / rows),
        index_rows=rows,
    )


def _balance(order: np.ndarray, global_batch: int, ranks: int) -> Balance:
    steps, share = steps_per_epoch(len(order), global_batch), rank_share(global_batch, ranks)
    seen = np.zeros(len(order), np.uint8)
    of_rank = np.zeros(ranks, np.int64)
    by_rank = set(np.linspace(0, steps - 1, min(steps, _STEPS_BY_RANK), dtype=np.int64).tolist())
    exact = True
    for step in range(steps):
        # Of one rank: the whole global batch.
        samples, valid = rank_slice(order, step, global_batch, 0, 1)
        seen[samples[valid]] += 1
        of_rank += valid.reshape(ranks, share).sum(axis=1)
        if step in by_rank:
            each = [rank_slice(order, step, global_batch, rank, ranks) for rank in range(ranks)]
            exact &= bool((np.concatenate([one for one, _ in each]) == samples).all())
            exact &= bool((np.concatenate([counts for _, counts in each]) == valid).all())
    return Balance(
        steps=steps,
        share=share,
        padded=steps * global_batch - int(of_rank.sum()),
        fewest=int(of_rank.min()),
        most=int(of_rank.max()),
        exact=exact and bool((seen == 1).all()),
    )


def _shards(videos: int) -> tuple[int, int]:
    """How many shards there will be, and how many videos the largest holds: of one record, again and again."""
    record = VideoRecord("video", Path("video.mp4"), (0,), "train")
    plans = plan_shards(Path(), Path(), [record] * videos, EncodeOptions(), None, {})
    return len(plans), max(len(plan.records) for plan in plans)


def _index(rows: int) -> tuple[float, int]:
    """Seconds to open an index of so many rows, and the memory it then takes, in bytes, once every part was used.

    Packets lie in the file and are read when they are wanted: one for each video is as good as 300.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "index.arrow"
        write_index(path, parts(rows, 1), {"split": "train"})
        began = time.perf_counter()
        Index(path)
        opened = time.perf_counter() - began
        with _memory() as held:
            index = Index(path)
            for row in range(0, len(index), ROWS_PER_BATCH):
                index[row]
        return opened, held[0]


@contextmanager
def _memory() -> Iterator[list[int]]:
    """A list that holds, at the end, the bytes that Python and NumPy have been given meanwhile and not given back."""
    held: list[int] = []
    tracemalloc.start()
    try:
        yield held
        held.append(tracemalloc.get_traced_memory()[0])
    finally:
        tracemalloc.stop()
