"""A dataset: whether it can be trained on here, how fast the disk gives it, and how fast the loader."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from benchmarks.contenders import route_name
from benchmarks.doctor.finding import Finding
from benchmarks.routes import OurLoader
from benchmarks.turns import RouteFailed, Work, bytes_from_storage, take_turn
from pipelines import MappedShards, Sampling, decode_threads
from pipelines.packets import PacketReader
from pipelines.samples import TrainSamples
from preprocess.errors import DataError
from preprocess.index import Dataset, shard_name

# As V4D ResNet-18 takes them. Batches of the demo's size on a CPU.
_SAMPLING = Sampling(4, 4, 8, 224)
_BATCH = {"cpu": 8, "cuda": 64}
# Not the loader's own, which comes after: else it would find what this has read.
_SEED = 1
# About what a V4D ResNet-18 trains on an H100 with bf16 and torch.compile: docs/measurements.md.
_WANTED_OF_A_GPU = 700
_SHARE_FROM_STORAGE = 0.5


def on_this_machine(dataset: Dataset, device: str) -> Finding:
    """Whether ``v4d train`` takes it at all."""
    about = f"dataset {dataset.root}"
    videos = dataset.splits.get("train", {}).get("videos", 0)
    said = f"{videos:,} videos to train on, {len(dataset.classes)} classes, {dataset.codec}"
    if not videos:
        return Finding(about, "missing", f"{said}: there is nothing to train on", needed=True)
    if len(dataset.classes) < 2:
        return Finding(about, "missing", f"{said}: there is nothing to learn", needed=True)
    if dataset.codec == "h264" and device == "cpu":
        advice = "preprocess with --codec mjpeg or vp9, or use a GPU"
        return Finding(about, "missing", f"{said}, which the loader decodes on a GPU alone", advice, needed=True)
    return Finding(about, "ok", said)


@dataclass(frozen=True)
class DiskSpeed:
    """What reading the packets of ``videos`` took; of its bytes so many came from storage and not from memory."""

    videos: int
    packets: int
    bytes: int
    from_storage: int
    seconds: float

    @property
    def cached(self) -> bool:
        """Whether most of it was in memory: the disk was hardly asked."""
        return self.from_storage < _SHARE_FROM_STORAGE * self.bytes

    def line(self) -> str:
        """The same for people."""
        per_second = f"{self.bytes / self.seconds / 1e6:,.1f} MB/s, {self.packets / self.seconds:,.0f} packets/s"
        where = "most of it from memory, where the kernel kept it" if self.cached else "from disk"
        return f"{per_second}, enough for {self.videos / self.seconds:,.0f} videos/s; {where}"


def disk_speed(dataset: Dataset, seconds: float) -> DiskSpeed:
    """Read packets here and there, as the loader does, for some seconds or all videos once.

    What the kernel keeps of the shards in memory it is first asked to give up; what others have mapped it keeps.
    Raises DataError if a shard is damaged or missing.
    """
    root = dataset.root / "train"
    index = dataset.split("train")
    for shard in sorted(set(index.column("shard"))):
        _drop_from_memory(root / shard_name(shard))
    samples = TrainSamples(dataset, "train", _SAMPLING, _BATCH["cpu"], _SEED, 0, 1)
    reader = PacketReader(MappedShards(root), dataset.codec)
    began, before = time.perf_counter(), bytes_from_storage()
    videos = packets = size = 0
    for places in islice(samples.batches(0), samples.steps_per_epoch):
        # All are announced before the first is read, as in training.
        wanted = [reader.announce(sample.row, sample.frames) for sample in map(samples.sample, places)]
        for one in wanted:
            reader.read(one)
            videos, packets, size = videos + 1, packets + len(one.where), size + sum(length for _, length in one.where)
        if time.perf_counter() - began > seconds:
            break
    return DiskSpeed(videos, packets, size, bytes_from_storage() - before, time.perf_counter() - began)


def _drop_from_memory(path: Path) -> None:
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error}): restore that file, or preprocess again") from None
    try:
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(descriptor)


def loading(dataset: Dataset, device: str, gpus: int, seconds: float) -> list[Finding]:
    """How fast the disk and the loader are, for one training process of as many as there are GPUs."""
    try:
        disk = disk_speed(dataset, seconds)
    except DataError as error:
        return [Finding("disk", "missing", str(error), "v4d verify finds all that is damaged", needed=True)]
    threads = decode_threads(max(1, gpus))
    work = Work(dataset.root, "train", _SAMPLING, _BATCH[device], device, threads, seconds)
    try:
        turn = take_turn(OurLoader(route_name(dataset), dataset.root), work)
    except RouteFailed as error:
        return [Finding("disk", "ok", disk.line()), Finding("loader", "missing", str(error), needed=True)]
    return [disk_finding(disk, turn.videos_per_s), loader_finding(turn.videos_per_s, threads, device)]


def disk_finding(disk: DiskSpeed, loader_rate: float) -> Finding:
    """The disk, beside a loader that gives ``loader_rate`` videos/s."""
    if disk.videos / disk.seconds < loader_rate and not disk.cached:
        return Finding("disk", "slow", disk.line(), "slower than the loader: copy the dataset to a local SSD")
    return Finding("disk", "ok", disk.line())


def loader_finding(rate: float, threads: int, device: str) -> Finding:
    """The loader, that gave ``rate`` videos/s with so many threads."""
    take = _SAMPLING
    said = f"{rate:,.0f} videos/s of {take.units}x{take.frames} frames at {take.crop} pixels, with {threads} threads"
    if device == "cuda" and rate < _WANTED_OF_A_GPU:
        advice = f"V4D ResNet-18 takes some {_WANTED_OF_A_GPU} on an H100: see cores, disk and JPEG engine"
        return Finding("loader", "slow", said, advice)
    return Finding("loader", "ok", said)
