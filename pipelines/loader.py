"""The loaders that training and evaluation see: typed batches on a device, from the codec that a dataset has."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any, Literal

import torch

from pipelines.bad_videos import BadVideos
from pipelines.batch import Batch
from pipelines.batch_stream import BatchStream
from pipelines.in_flight import plan_in_flight
from pipelines.order import rank_share
from pipelines.packets import PacketReader
from pipelines.samples import EvalSamples, Samples, Sampling, TrainSamples
from pipelines.shard_store import MappedShards, ShardStore
from preprocess.errors import DataError, UsageError
from preprocess.index import Dataset

MAX_BAD = 0.001
_MOST_THREADS = 8


class TrainLoader:
    """Endless batches of a split for training, the same for a (seed, global batch, sampling) on any number of ranks.

    Step ``s`` of the run is step ``s % steps_per_epoch`` of epoch ``s // steps_per_epoch``. Iterating goes on where
    the state is: at step 0, after the last batch handed out, or where ``load_state_dict`` puts it.
    """

    def __init__(
        self,
        dataset: Dataset,
        split: str,
        sampling: Sampling,
        *,
        global_batch: int,
        seed: int,
        device: torch.device,
        rank: int = 0,
        ranks: int = 1,
        threads: int | None = None,
        max_bad: float = MAX_BAD,
        store: ShardStore | None = None,
    ) -> None:
        """Open a split.

        ``threads`` decode: by default as many as this process may use cores, at most 8. ``store`` is where shards
        are read, by default the split's folder. More than ``max_bad`` (0 to 1) of a split's samples that cannot be
        loaded in an epoch end the iteration with a DataError; up to there each is replaced by a row that does not
        count. Of several ranks each counts in ``bad`` what it met: who sums that over the ranks checks the sum.

        Raises DataError if the split is missing or empty, UsageError if the device does not decode its codec,
        ValueError if ``ranks`` do not divide the batch.
        """
        self._samples = TrainSamples(dataset, split, sampling, global_batch, seed, rank, ranks)
        self.index = self._samples.index
        self.steps_per_epoch = self._samples.steps_per_epoch
        self.bad = BadVideos(max_bad, len(self._samples), ranks)
        self._global_batch = global_batch
        self._step = 0
        # What a run's batches follow from, as values that JSON gives back as they were.
        self._same: dict[str, Any] = {"dataset": dataset.fingerprint, "split": split, "seed": seed}
        self._same |= {"global_batch": global_batch, "sampling": {**asdict(sampling), "scales": list(sampling.scales)}}
        share = rank_share(global_batch, ranks)
        self._stream = _stream(self._samples, dataset, split, sampling, share, self.bad, True, device, threads, store)

    def __iter__(self) -> Iterator[Batch]:
        for batch in self._stream.run(self._step):
            self._step += 1
            yield batch

    @property
    def memory_bound(self) -> int:
        """Bytes on the device that the batches on their way take at most, those in use counted in."""
        return self._stream.memory_bound

    def state_dict(self) -> dict[str, Any]:
        """Where the run is after the last batch handed out: ``epoch`` and ``step`` in it, and what batches depend on.

        It goes through JSON unchanged.
        """
        epoch, step = divmod(self._step, self.steps_per_epoch)
        return {"epoch": epoch, "step": step, **self._same}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where ``state`` was taken, on this number of ranks or another.

        Raises DataError if it was taken of another dataset, or is none of this version's; UsageError if it was taken
        with another split, seed, global batch or sampling.
        """
        if state.keys() != self.state_dict().keys():
            raise DataError("the loader's state is of another version of v4d: begin the run anew")
        if state["dataset"] != self._same["dataset"]:
            raise DataError("the dataset is another one than the run was begun on, or has changed since")
        then, now = ({**of, **of["sampling"]} for of in (state, self._same))
        for name, value in now.items():
            if name != "sampling" and then.get(name) != value:
                said = f"{name.replace('_', ' ')} {then.get(name)}, not {value}"
                raise UsageError(f"the run was begun with {said}: its batches would differ")
        self._step = state["epoch"] * self.steps_per_epoch + state["step"]

    def videos_in(self, step: int) -> int:
        """How many samples of the split the global batch of a step holds, without the rows that fill it up."""
        return min(self._global_batch, len(self._samples) - step % self.steps_per_epoch * self._global_batch)


class EvalLoader:
    """Each sample of a split once, in the order of the index, with centred units, or clips, and ``crops`` of each.

    These are one in the centre, three along the longer side, or five smaller ones: the corners and the centre.
    """

    def __init__(
        self,
        dataset: Dataset,
        split: str,
        sampling: Sampling,
        *,
        global_batch: int,
        device: torch.device,
        crops: Literal[1, 3, 5] = 3,
        rank: int = 0,
        ranks: int = 1,
        threads: int | None = None,
        max_bad: float = MAX_BAD,
        store: ShardStore | None = None,
    ) -> None:
        """Open a split; see TrainLoader.

        Raises DataError if there is none, UsageError if the device does not decode its codec, ValueError if
        ``ranks`` do not divide the batch.
        """
        self._samples = EvalSamples(dataset, split, sampling, global_batch, crops, rank, ranks)
        self.index = self._samples.index
        self.bad = BadVideos(max_bad, len(self._samples), ranks)
        resize = crops == 5 or dataset.size is None or min(dataset.size) != sampling.crop
        share = rank_share(global_batch, ranks)
        self._stream = _stream(self._samples, dataset, split, sampling, share, self.bad, resize, device, threads, store)

    @property
    def samples(self) -> int:
        """How many samples the split has, over all ranks."""
        return len(self._samples)

    @property
    def crops(self) -> int:
        """How many crops of each video a batch holds."""
        return self._samples.crops

    @property
    def memory_bound(self) -> int:
        """See TrainLoader."""
        return self._stream.memory_bound

    def __len__(self) -> int:
        return self._samples.steps_per_epoch

    def __iter__(self) -> Iterator[Batch]:
        return self.at(range(len(self)))

    def at(self, steps: Sequence[int]) -> Iterator[Batch]:
        """Some of the batches, by their numbers, in this order."""
        self._samples.steps = steps
        # Each time through is a count of its own.
        self.bad.restart()
        return self._stream.run(0)


def decode_threads(processes: int = 1) -> int:
    """How many threads decode in each of so many processes on this machine: their share of its cores, at most 8."""
    return max(1, min(_MOST_THREADS, len(os.sched_getaffinity(0)) // processes))


def _stream(
    samples: Samples,
    dataset: Dataset,
    split: str,
    sampling: Sampling,
    videos: int,
    bad: BadVideos,
    resize: bool,
    device: torch.device,
    threads: int | None,
    store: ShardStore | None,
) -> BatchStream:
    codec = str(samples.index.metadata.get("codec", dataset.codec))
    if codec == "h264" and device.type != "cuda":
        raise UsageError(f"{dataset.root} is H.264, which only a GPU decodes here: use one, or preprocess with another")
    size = dataset.size or (max(samples.index.column("width")), max(samples.index.column("height")))
    pictures = videos * sampling.units * sampling.frames
    reader = PacketReader(store or MappedShards(dataset.root / split), codec)
    return BatchStream(
        samples,
        reader,
        bad,
        codec=codec,
        sampling=sampling,
        videos=videos,
        resize=resize,
        device=device,
        threads=threads or decode_threads(),
        in_flight=plan_in_flight(
            pictures, size, samples.crops, sampling.crop, device, cut_on_gpu=device.type == "cuda" and codec != "mjpeg"
        ),
    )
