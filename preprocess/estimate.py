"""What a run would do, and how long it would take: some of its videos encoded for a trial, and thrown away."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from preprocess.encode import encode
from preprocess.errors import Interrupted, stop_signals
from preprocess.ffmpeg import EncodeOptions
from preprocess.records import Listing, VideoRecord
from preprocess.sources import Unreadable

_FEWEST_TRIED = 8
_TRIED_PER_WORKER = 2
_MISSING_SHOWN = 10
_TOLD = ("videos", "tried", "rejected", "videos_per_second", "hours", "codec", "cpu_seconds")


@dataclass(frozen=True)
class Estimate:
    """Videos found per split, those that are missing, and what ``tried`` videos say of the rest on this machine.

    ``cpu_seconds`` is the CPU time, of all processes, that they took.
    """

    videos: dict[str, int]
    missing: tuple[VideoRecord, ...]
    notes: tuple[str, ...]
    tried: int
    rejected: int
    videos_per_second: float
    hours: float
    size: int
    free: int
    codec: str
    cpu_seconds: float

    def lines(self, workers: int) -> list[str]:
        """What to tell a person."""
        found = ", ".join(f"{count:,} {split}" for split, count in self.videos.items()) or "none"
        lines = [f"note: {note}" for note in self.notes]
        lines.append(f"found {found}; missing {len(self.missing):,}")
        for split, count in Counter(record.split for record in self.missing).items():
            lines.append(f"missing in {split}: {count:,}")
        lines += [f"  {record.problem}" for record in self.missing[:_MISSING_SHOWN]]
        if len(self.missing) > _MISSING_SHOWN:
            lines.append(f"  and {len(self.missing) - _MISSING_SHOWN:,} more (--json lists all)")
        if self.tried:
            lines.append(
                f"tried {self.tried} videos ({self.rejected} would be rejected): {self.videos_per_second:.1f} videos/s "
                f"with {workers} workers, so about {self.hours:.2f} hours and {self.size / 1e9:.2f} GB; "
                f"{self.free / 1e9:.0f} GB are free"
            )
        return lines

    def as_json(self) -> dict[str, Any]:
        """The same for machines."""
        missing = [{"key": r.key, "split": r.split, "reason": r.problem} for r in self.missing]
        about = {name: getattr(self, name) for name in _TOLD}
        return about | {"bytes": self.size, "bytes_free": self.free, "notes": self.notes, "missing": missing}


def estimate(listing: Listing, data: Path, options: EncodeOptions, workers: int) -> Estimate:
    """Encode a few of the videos, spread over all, with as many at a time as a run would, and scale up.

    Raises Interrupted on Ctrl-C or SIGTERM.
    """
    records = list(listing.records)
    found = [record for record in records if not record.problem]
    chosen = sorted(found, key=lambda record: hashlib.sha256(record.key.encode()).digest())
    chosen = chosen[: max(_FEWEST_TRIED, _TRIED_PER_WORKER * workers)]
    began, cpu = time.monotonic(), _cpu_seconds()
    with stop_signals() as asked, ThreadPoolExecutor(workers) as executor:
        sizes = list(executor.map(lambda record: _encoded_size(record, options, asked.is_set), chosen))
    rate = len(chosen) / max(time.monotonic() - began, 1e-9)
    return Estimate(
        videos=dict(Counter(record.split for record in found)),
        missing=tuple(record for record in records if record.problem),
        notes=tuple(listing.notes),
        tried=len(chosen),
        rejected=sizes.count(None),
        videos_per_second=rate,
        hours=len(found) / rate / 3600 if chosen else 0.0,
        size=round(sum(size or 0 for size in sizes) * len(found) / max(len(chosen), 1)),
        free=_free(data),
        codec=options.codec,
        cpu_seconds=_cpu_seconds() - cpu,
    )


def _encoded_size(record: VideoRecord, options: EncodeOptions, stopped: Callable[[], bool]) -> int | None:
    """Bytes of the packets, None for a video that would be rejected."""
    with tempfile.TemporaryFile() as packets:
        try:
            encode(record.source, options, packets, stopped, trim=record.trim, frame_rate=record.frame_rate)
        except Unreadable:
            return None
        except Interrupted:
            # There is nothing to go on from.
            raise Interrupted("stopped") from None
        return packets.seek(0, os.SEEK_END)


def _cpu_seconds() -> float:
    """CPU time of this process and of those that it has waited for."""
    taken = os.times()
    return taken.user + taken.system + taken.children_user + taken.children_system


def _free(data: Path) -> int:
    """Bytes free on the disk that ``data`` will lie on."""
    folder = data.absolute()
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free
