"""Preprocess a listed dataset: plan its shards, write them on every core, and finish with the index."""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import shutil
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from multiprocessing import get_context, parent_process
from multiprocessing.queues import SimpleQueue
from pathlib import Path
from typing import Any

from preprocess.errors import DataError, Interrupted, UsageError, stop_signals
from preprocess.ffmpeg import EncodeOptions, version
from preprocess.index import (
    FORMAT,
    VERSION,
    held,
    read_dataset,
    replace_atomically,
    sha256_of,
    write_index,
)
from preprocess.records import Listing, VideoRecord, printable
from preprocess.shards import BUILDING, ShardPlan, plan_shards, read_part, relative_source, write_shard


@dataclass(frozen=True)
class Summary:
    """What a run left: videos per split, frames, bytes of shards, rejected videos by reason, seconds it took."""

    data: Path
    videos: dict[str, int]
    frames: int
    size: int
    rejected: dict[str, int]
    notes: tuple[str, ...]
    seconds: float
    already_done: bool = False

    def lines(self) -> list[str]:
        """What to tell a person."""
        splits = ", ".join(f"{count} {split}" for split, count in self.videos.items())
        said = f"{self.data}: {splits} videos, {self.frames:,} frames, {self.size / 1e6:,.0f} MB"
        when = "already complete" if self.already_done else f"{self.seconds:.0f} s"
        rejected = [f"rejected {count}: {reason}" for reason, count in sorted(self.rejected.items())]
        where = [f"rejected videos: {self.data / 'rejected.jsonl'}"] if rejected else []
        return [f"note: {note}" for note in self.notes] + rejected + where + [f"{said} ({when})"]


def preprocess(
    listing: Listing,
    data: Path,
    options: EncodeOptions,
    *,
    val_fraction: float,
    shard_size: int | None,
    workers: int,
    on_start: Callable[[int, int], None] = lambda total, done: None,
    on_video: Callable[[bool], None] = lambda taken: None,
) -> Summary:
    """Write ``listing`` as shards and indices under ``data``; run again after an interruption, it goes on.

    ``on_start`` gets the number of videos and how many of them lie in shards that an earlier run finished;
    ``on_video`` is called for each video of this run, with whether it was taken.

    Raises DataError if ``data`` holds something else, was begun with other options, or no video could be read;
    and if the disk is full. Raises UsageError if ``data`` lies among the videos or its name is no UTF-8, and without
    an ffmpeg to run.
    Raises Interrupted on Ctrl-C or SIGTERM.
    """
    began = time.monotonic()
    if listing.takes_every_file and data.resolve().is_relative_to(listing.root.resolve()):
        raise UsageError(f"{data} lies inside {listing.root}, where it would count as videos: choose another --out")
    if str(data).encode(errors="ignore") != os.fsencode(data):
        raise UsageError(f"{printable(data)} is no UTF-8, which Arrow cannot open: choose another --out")
    records = tuple(listing.records)
    settings = _settings(listing, records, options, val_fraction, shard_size)
    already_done = (data / "dataset.json").exists()
    if not already_done:
        with _folder_of_this_run(data, settings):
            plans = plan_shards(data, listing.root, records, options, shard_size)
            open_plans = [plan for plan in plans if not plan.part.exists()]
            left = sum(len(plan.records) for plan in open_plans)
            on_start(len(records), len(records) - left)
            with _disk_full_said_plainly(data):
                _write_shards(open_plans, workers, on_video)
                _finish(data, listing, records, plans, options, settings)
    _refuse_other_settings(data, read_dataset(data).options, settings)
    # Also what a run left that was killed at this point.
    shutil.rmtree(data / BUILDING, ignore_errors=True)
    return _summary(data, listing, records, began, already_done)


def _settings(
    listing: Listing,
    records: tuple[VideoRecord, ...],
    options: EncodeOptions,
    val_fraction: float,
    shard_size: int | None,
) -> dict[str, Any]:
    """Everything that the bytes of a dataset depend on, and what to call it in a message."""
    digest = hashlib.sha256()
    for record in records:
        about = [record.key, relative_source(listing.root, record.source), record.labels, record.split]
        digest.update(json.dumps([*about, _size(record.source)]).encode())
    return {
        "v4d": VERSION,
        "ffmpeg": version(),
        "kind": listing.kind,
        "source": printable(listing.root.resolve()),
        "videos": f"{len(records)} videos, {digest.hexdigest()[:16]}",
        "val_fraction": val_fraction,
        "shard_size": shard_size,
        **{name: value for name, value in asdict(options).items() if name != "timeout"},
    }


def _size(source: Path) -> int:
    """Size of a source in bytes, -1 for a link that leads nowhere."""
    try:
        return source.stat().st_size
    except OSError:
        return -1


def _refuse_other_settings(data: Path, before: dict[str, Any], now: dict[str, Any]) -> None:
    differing = [f"{name} {before.get(name)} then, {now[name]} now" for name in now if before.get(name) != now[name]]
    if differing:
        raise DataError(f"{data} was made otherwise ({'; '.join(differing)}): choose another --out, or remove it")


@contextmanager
def _folder_of_this_run(data: Path, settings: dict[str, Any]) -> Iterator[None]:
    """Hold ``data`` for one run: it is empty, or a run with the same settings began it, and nobody else writes."""
    building, plan = data / BUILDING, data / BUILDING / "plan.json"
    if data.exists() and not building.exists() and any(data.iterdir()):
        raise DataError(f"{data} is not empty and no v4d dataset: choose another --out")
    building.mkdir(parents=True, exist_ok=True)
    with held(building / "lock", f"{data} is being written by another v4d preprocess"):
        if plan.exists():
            _refuse_other_settings(data, json.loads(plan.read_bytes()), settings)
        else:
            with replace_atomically(plan) as temporary:
                temporary.write_text(json.dumps(settings, indent=2) + "\n")
        for left_over in data.rglob(".*.tmp"):
            left_over.unlink()
        yield


@contextmanager
def _disk_full_said_plainly(data: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise DataError(
            f"{error.strerror or error} while writing {data}: mend that, then run the same command again"
        ) from None


# State of a worker process, set once when it starts. Shared memory without a lock says when to stop: a worker that
# is killed cannot take a lock with it.
_progress: SimpleQueue[bool]
_stop: ctypes.c_bool


def _start_worker(progress: SimpleQueue[bool], stop: ctypes.c_bool) -> None:
    global _progress, _stop
    _progress, _stop = progress, stop
    threading.Thread(target=_exit_with_parent, daemon=True).start()


def _exit_with_parent() -> None:
    """A main process killed with SIGKILL tells nobody: without this its workers would wait for work for ever."""
    parent = parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _work(plan: ShardPlan) -> None:
    write_shard(plan, _progress.put, lambda: _stop.value)


def _write_shards(plans: list[ShardPlan], workers: int, on_video: Callable[[bool], None]) -> None:
    if not plans:
        return
    context = get_context("spawn")
    progress: SimpleQueue[bool] = context.SimpleQueue()
    stop = context.RawValue(ctypes.c_bool, False)

    def report() -> None:
        while not progress.empty():
            on_video(progress.get())

    # Most videos first: the last shards to finish are then short ones.
    plans = sorted(plans, key=lambda plan: -len(plan.records))
    with (
        stop_signals() as asked,
        ProcessPoolExecutor(min(workers, len(plans)), context, _start_worker, (progress, stop)) as executor,
    ):
        try:
            # Workers are born with Ctrl-C blocked, which is the main process's to hear.
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
            try:
                waiting = {executor.submit(_work, plan) for plan in plans}
            finally:
                signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
            while waiting:
                done, waiting = wait(waiting, timeout=0.2, return_when=FIRST_COMPLETED)
                report()
                if asked.is_set():
                    raise Interrupted
                for future in done:
                    future.result()
        except BrokenProcessPool:
            # SIGTERM may reach the workers first, as from a job scheduler that sends it to every process.
            if asked.wait(1.0):
                raise Interrupted from None
            raise DataError(
                "a worker process was killed (out of memory?): run the same command again, with fewer --workers"
            ) from None
        finally:
            stop.value = True
            executor.shutdown(wait=True, cancel_futures=True)


def _finish(
    data: Path,
    listing: Listing,
    records: tuple[VideoRecord, ...],
    plans: list[ShardPlan],
    options: EncodeOptions,
    settings: dict[str, Any],
) -> None:
    """Merge the parts into each split's index and rejected.jsonl; dataset.json comes last of all."""
    splits: dict[str, dict[str, Any]] = {}
    rejected: list[dict[str, str]] = []
    for split in dict.fromkeys(plan.split for plan in plans):
        parts = {plan.tar.name: read_part(plan) for plan in plans if plan.split == split}
        index = data / split / "index.arrow"
        videos = write_index(index, (part.rows for part in parts.values()), {"split": split, **settings})
        rejected += [row for part in parts.values() for row in part.rejected]
        splits[split] = {
            "videos": videos,
            "frames": sum(sum(part.rows.column("frames").to_pylist()) for part in parts.values()),
            "index_sha256": sha256_of(index),
            "shards": [
                {"name": name, "videos": part.rows.num_rows, "bytes": part.size, "sha256": part.sha256}
                for name, part in parts.items()
            ],
        }
    with replace_atomically(data / "rejected.jsonl") as temporary:
        temporary.write_text("".join(json.dumps(row) + "\n" for row in rejected))
    if not splits.get("train", {}).get("videos") and not splits.get("val", {}).get("videos"):
        raise DataError(f"none of the {len(records)} videos could be read: see {data / 'rejected.jsonl'}")
    content = {
        "format": FORMAT,
        "kind": listing.kind,
        "codec": settings["codec"],
        "gop": settings["gop"],
        "size": options.fixed_size,
        "classes": listing.classes,
        "rejected": len(rejected),
        "options": settings,
        "splits": splits,
    }
    with replace_atomically(data / "dataset.json") as temporary:
        temporary.write_bytes((json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode())


def _summary(
    data: Path, listing: Listing, records: tuple[VideoRecord, ...], began: float, already_done: bool
) -> Summary:
    dataset = read_dataset(data)
    rejected = [json.loads(line)["reason"] for line in (data / "rejected.jsonl").read_text().splitlines()]
    present = {
        label for split in dataset.splits for labels in dataset.split(split).column("labels") for label in labels
    }
    unreadable = sorted({label for r in records for label in r.labels} - present)
    notes = [f"class '{listing.classes[label]}' has no readable video" for label in unreadable]
    return Summary(
        data=data,
        videos={split: about["videos"] for split, about in dataset.splits.items()},
        frames=sum(about["frames"] for about in dataset.splits.values()),
        size=sum(shard["bytes"] for about in dataset.splits.values() for shard in about["shards"]),
        rejected=dict(Counter(reason.partition(":")[0] for reason in rejected)),
        notes=(*listing.notes, *notes),
        seconds=time.monotonic() - began,
        already_done=already_done,
    )
