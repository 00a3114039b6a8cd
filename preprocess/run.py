"""Preprocess a listed dataset: plan its shards, have them written, and finish with the index."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from preprocess.assemble import assemble
from preprocess.directions import flip_of
from preprocess.durable_files import held, remove_left_overs, replace_atomically
from preprocess.errors import DataError, UsageError
from preprocess.ffmpeg import EncodeOptions, version
from preprocess.index import FORMAT, VERSION, read_dataset
from preprocess.records import Listing, VideoRecord, printable
from preprocess.shard_tar import ShardPart
from preprocess.shards import BUILDING, ShardPlan, plan_shards, read_part, relative_source

_CLASSES_SHOWN = 5

# Takes the shards to write, and a function to call after each video with whether it was taken.
Executor = Callable[[list[ShardPlan], Callable[[bool], None]], None]


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
        where = [f"missing and rejected videos: {self.data / 'rejected.jsonl'}"] if rejected else []
        return [f"note: {note}" for note in self.notes] + rejected + where + [f"{said} ({when})"]


def preprocess(
    listing: Listing,
    data: Path,
    options: EncodeOptions,
    write_shards: Executor,
    *,
    shard_size: int | None = None,
    on_start: Callable[[int, int], None] = lambda total, done: None,
    on_video: Callable[[bool], None] = lambda taken: None,
) -> Summary:
    """Write a listing as shards and indices under ``data``; run again after an interruption, it goes on.

    ``on_start`` gets the number of videos and how many of them lie in shards that an earlier run finished;
    ``on_video`` is called for each video of this run, with whether it was taken.

    Raises DataError if ``data`` holds something else, was begun with other options, or no video could be read;
    and if the disk is full. Raises UsageError if ``data`` lies among the videos or its name is no UTF-8, and without
    an ffmpeg to run. Raises Interrupted on Ctrl-C or SIGTERM.
    """
    began = time.monotonic()
    if listing.takes_every_file and data.resolve().is_relative_to(listing.root.resolve()):
        raise UsageError(f"{data} lies inside {listing.root}, where it would count as videos: choose another --out")
    if str(data).encode(errors="ignore") != os.fsencode(data):
        raise UsageError(f"{printable(data)} is no UTF-8, which Arrow cannot open: choose another --out")
    digest, records = _digest(listing.root, listing.records)
    settings = _settings(listing, f"{len(records)} videos, {digest}", options, shard_size)
    already_done = (data / "dataset.json").exists()
    if not already_done:
        header = _header(listing, options, settings)
        with _disk_full_said_plainly(data), _folder_of_this_run(data, settings):
            plans = plan_shards(data, listing.root, records, options, shard_size, header)
            open_plans = [plan for plan in plans if not plan.part.exists()]
            total = sum(len(plan.records) for plan in plans)
            on_start(total, total - sum(len(plan.records) for plan in open_plans))
            if open_plans:
                write_shards(open_plans, on_video)
                # A worker of a cluster may have been lost on the way.
                remove_left_overs(data)
            splits = dict.fromkeys(plan.split for plan in plans)
            assemble(data, header, {split: _parts(plans, split) for split in splits})
    _refuse_other_settings(data, read_dataset(data).options, settings)
    if already_done:
        videos = sum(not record.problem for record in records)
        on_start(videos, videos)
    # Also what a run left that was killed at this point.
    shutil.rmtree(data / BUILDING, ignore_errors=True)
    return _summary(data, listing, records, began, already_done)


def _parts(plans: Iterable[ShardPlan], split: str) -> Iterator[ShardPart]:
    return (read_part(plan) for plan in plans if plan.split == split)


def _digest(root: Path, records: Iterable[VideoRecord]) -> tuple[str, list[VideoRecord]]:
    """A hash of everything the shards depend on but the options, and the records: what is not there is a problem."""
    digest = hashlib.sha256()
    looked_at = []
    for record in records:
        size = -1
        if not record.problem:
            try:
                size = record.source.stat().st_size
            except OSError as error:
                record = replace(record, problem=f"cannot be opened: {error.strerror}")
        source = relative_source(root, record.source)
        about = (record.key, source, record.labels, record.split, record.segments, record.trim, record.frame_rate)
        digest.update(json.dumps((*about, record.problem, size)).encode())
        looked_at.append(record)
    return digest.hexdigest()[:16], looked_at


def _settings(listing: Listing, videos: str, options: EncodeOptions, shard_size: int | None) -> dict[str, Any]:
    """Everything that the bytes of a dataset depend on, and what to call it in a message."""
    return {
        "v4d": VERSION,
        "ffmpeg": version(),
        "kind": listing.kind,
        "source": printable(listing.root.resolve()),
        "videos": videos,
        **listing.options,
        "shard_size": shard_size,
        **options.settings,
    }


def _header(listing: Listing, options: EncodeOptions, settings: dict[str, Any]) -> dict[str, Any]:
    """dataset.json without its counts."""
    return {
        "format": FORMAT,
        "kind": listing.kind,
        "codec": options.codec,
        "gop": options.gop,
        "size": options.fixed_size,
        "classes": list(listing.classes),
        # What a horizontal flip makes of the classes that name a direction; -1: they must not be flipped.
        "flip": {str(i): other for i, other in enumerate(flip_of(listing.classes)) if other != i},
        "options": settings,
    }


def _refuse_other_settings(data: Path, before: dict[str, Any], now: dict[str, Any]) -> None:
    names = dict.fromkeys((*now, *before))
    differing = [
        f"{name} {before.get(name)} then, {now.get(name)} now" for name in names if before.get(name) != now.get(name)
    ]
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
        remove_left_overs(data)
        yield


@contextmanager
def _disk_full_said_plainly(data: Path) -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:
        # Of who reads what is said of the run, not of the folder.
        raise
    except OSError as error:
        # Arrow's says more than what is wrong.
        reason = os.strerror(error.errno) if error.errno else error
        raise DataError(f"{reason} while writing {data}: mend that, then run the same command again") from None


def _summary(data: Path, listing: Listing, records: Sequence[VideoRecord], began: float, already_done: bool) -> Summary:
    dataset = read_dataset(data)
    with open(data / "rejected.jsonl", encoding="utf-8") as lines:
        rejected = Counter(json.loads(line)["reason"].partition(":")[0] for line in lines)
    present = {
        label for split in dataset.splits for labels in dataset.split(split).column("labels") for label in labels
    }
    unreadable = sorted({label for record in records for label in record.labels} - present)
    without = ", ".join(f"'{listing.classes[label]}'" for label in unreadable[:_CLASSES_SHOWN])
    more = ", ..." if len(unreadable) > _CLASSES_SHOWN else ""
    notes = [f"{len(unreadable)} class(es) without a readable video: {without}{more}"] if unreadable else []
    return Summary(
        data=data,
        videos={split: about["videos"] for split, about in dataset.splits.items()},
        frames=sum(about["frames"] for about in dataset.splits.values()),
        size=sum(shard["bytes"] for about in dataset.splits.values() for shard in about["shards"]),
        rejected=dict(rejected),
        notes=(*listing.notes, *notes),
        seconds=time.monotonic() - began,
        already_done=already_done,
    )
