"""Is every byte of a dataset as it was written? If not: which file, which video, which byte."""

from __future__ import annotations

import hashlib
import json
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from preprocess.assemble import dataset_json, index_metadata, shard_entry
from preprocess.durable_files import sha256_of
from preprocess.index import Index, read_dataset, shard_name, write_index
from preprocess.index_damage import index_faults
from preprocess.parallel import in_order
from preprocess.rebuild import shards_of
from preprocess.shard_check import ShardReport, ShardTask, check_shard
from preprocess.shard_reader import Damaged, Fault, ShardFile, read_about
from preprocess.shard_tar import as_lines
from preprocess.shards import BUILDING

_DATASET, _REJECTED, _INDEX = "dataset.json", "rejected.jsonl", "index.arrow"


@dataclass(frozen=True)
class Verified:
    """What was checked: faults, videos, packets, bytes, and the seconds it took."""

    data: Path
    faults: tuple[Fault, ...]
    videos: int
    packets: int
    size: int
    seconds: float

    def lines(self) -> list[str]:
        """What to tell a person after the faults."""
        checked = f"{self.videos:,} videos, {self.packets:,} packets, {self.size:,} bytes ({self.seconds:.0f} s)"
        if not self.faults:
            return [f"{self.data} is as it was written: {checked}"]
        files = Counter(fault.file for fault in self.faults)
        where = f"{_counted(len(self.faults), 'fault')} in {_counted(len(files), 'file')}"
        said = [f"{self.data} is damaged: {where}; {checked}"]
        if any(file.endswith(".tar") for file in files):
            said.append("restore the damaged shards, or preprocess again")
        if not all(file.endswith(".tar") for file in files):
            said.append(f"what is no shard is made anew by: v4d index rebuild {self.data}")
        return said


@dataclass
class _Split:
    """A split while it is checked: what dataset.json claims of it, and what its shards say."""

    name: str
    claimed: dict[str, Any] | None
    reports: list[ShardReport] = field(default_factory=list)
    missing: int = 0
    index_sha256: str = ""

    @property
    def sound(self) -> bool:
        return not self.missing and not any(report.faults for report in self.reports)


def verify(
    data: Path,
    workers: int = 1,
    on_fault: Callable[[Fault], None] = lambda fault: None,
    on_shard: Callable[[int, int], None] = lambda done, total: None,
) -> Verified:
    """Check every byte of a dataset. ``on_fault`` is called for each fault as it is found.

    ``on_shard`` is called after each shard, with how many are done, and of how many. Raises DataError if ``data``
    holds no dataset, an unfinished one or one of another version; Interrupted on Ctrl-C or SIGTERM.
    """
    return _Verification(data, workers, on_fault, on_shard).run()


class _Verification:
    def __init__(
        self,
        data: Path,
        workers: int,
        on_fault: Callable[[Fault], None],
        on_shard: Callable[[int, int], None],
    ) -> None:
        self._data, self._workers, self._on_fault, self._on_shard = data, workers, on_fault, on_shard
        self._faults: list[Fault] = []
        self._size = self._done = self._total = 0
        self._header: dict[str, Any] | None = None

    def run(self) -> Verified:
        began = time.monotonic()
        shards = shards_of(self._data)
        claims = self._claims(bool(shards))
        splits = [_Split(name, (claims or {}).get("splits", {}).get(name)) for name in self._names(shards, claims)]
        self._total = sum(map(len, shards.values()))
        for split in splits:
            self._check_split(split, shards[split.name])
        self._check_descriptions(splits, claims)
        rejected_sha256, rejected = self._check_rejected(splits, claims)
        self._check_dataset(splits, claims, rejected, rejected_sha256)
        reports = [report for split in splits for report in split.reports]
        return Verified(
            data=self._data,
            faults=tuple(self._faults),
            videos=sum(report.videos for report in reports),
            packets=sum(report.packets for report in reports),
            size=self._size,
            seconds=time.monotonic() - began,
        )

    def _fault(self, file: str, what: str, *, key: str = "", offset: int | None = None) -> None:
        self._report(Fault(file, key, offset, what))

    def _report(self, fault: Fault) -> None:
        self._faults.append(fault)
        self._on_fault(fault)

    def _claims(self, has_shards: bool) -> dict[str, Any] | None:
        """dataset.json as it is, None if it cannot be read."""
        path = self._data / _DATASET
        if not path.exists() and (not has_shards or (self._data / BUILDING).exists()):
            read_dataset(self._data)
        try:
            content = json.loads(path.read_bytes())
            for about in content["splits"].values():
                for shard in about["shards"]:
                    _ = str(shard["sha256"]), int(shard["bytes"]), int(shard["videos"])
                _ = str(about["index_sha256"]), int(about["videos"]), int(about["frames"])
            _ = int(content["rejected"]), str(content["rejected_sha256"])
            return dict(content)
        except FileNotFoundError:
            self._fault(_DATASET, "the file is missing")
        except (ValueError, KeyError, TypeError, AttributeError, OSError):
            self._fault(_DATASET, "the file cannot be read as v4d's")
        return None

    def _names(self, shards: dict[str, list[ShardFile]], claims: dict[str, Any] | None) -> list[str]:
        """Every split that has shards; what else dataset.json names is a fault."""
        for name in (claims or {}).get("splits", {}):
            if name not in shards:
                self._fault(_DATASET, f"it names a split '{name}', of which there are no shards: the file is damaged")
        for name in shards:
            if claims and name not in claims["splits"]:
                self._fault(_DATASET, f"it does not name the split '{name}', of which there are shards")
        return sorted(shards)

    def _check_split(self, split: _Split, shards: list[ShardFile]) -> None:
        if split.claimed:
            shards = [shard for shard in shards if shard.number < len(split.claimed["shards"])]
        index = self._data / split.name / _INDEX
        found = sha256_of(index) if index.is_file() else None
        self._size += index.stat().st_size if found else 0
        trusted = found is not None and split.claimed is not None and found == split.claimed["index_sha256"]
        split.index_sha256 = found or ""
        if trusted:
            split.reports.extend(self._checked(_tasks(index, shards)))
        else:
            self._check_against_shards(split, shards, index, found is not None)
        self._check_presence(split, shards)

    def _checked(self, tasks: list[ShardTask]) -> Iterator[ShardReport]:
        for report in in_order(check_shard, tasks, self._workers):
            for fault in report.faults:
                self._report(fault)
            self._size += report.size
            self._done += 1
            self._on_shard(self._done, self._total)
            yield report

    def _check_against_shards(self, split: _Split, shards: list[ShardFile], index: Path, exists: bool) -> None:
        """Check shards by themselves, and the index against the one that they give. It is not opened."""
        name = f"{split.name}/{_INDEX}"
        header = next(filter(None, map(_header_of, shards)), None)

        def rows() -> Iterator[pa.RecordBatch]:
            for report in self._checked([ShardTask(shard, None) for shard in shards]):
                split.reports.append(report)
                if split.claimed and not report.faults and not _is_as_claimed(split, report):
                    self._blame(
                        report, f"{_DATASET} says otherwise of it, though its own checksums are right: it differs"
                    )
                rows, report.rows = report.rows, None
                if rows is not None:
                    yield rows

        with tempfile.TemporaryDirectory(prefix="v4d-verify-") as folder:
            reference = Path(folder) / _INDEX
            write_index(reference, rows(), index_metadata(split.name, header or {"options": {}}))
            if not exists:
                self._fault(name, "the file is missing")
            elif not split.sound or header is None:
                self._fault(name, "the file cannot be checked before the split's shards are whole")
            else:
                for fault in index_faults(index, reference, name):
                    self._report(fault)
            split.index_sha256 = sha256_of(reference) if split.sound else ""

    def _check_presence(self, split: _Split, shards: list[ShardFile]) -> None:
        """Shards that are missing or too many, and files that nobody knows."""
        said = Counter(report.shards for report in split.reports if report.shards).most_common(1)
        wanted = len(split.claimed["shards"]) if split.claimed else said[0][0] if said else 0
        numbers = {shard.number for shard in shards}
        for number in range(wanted):
            if number not in numbers:
                split.missing += 1
                self._fault(
                    f"{split.name}/{shard_name(number)}", f"the file is missing: {wanted} shards belong to the split"
                )
        known = {_INDEX, *map(shard_name, range(wanted))}
        for path in sorted((self._data / split.name).iterdir()):
            if path.name not in known:
                self._fault(f"{split.name}/{path.name}", "the file is no part of the dataset")

    def _check_descriptions(self, splits: list[_Split], claims: dict[str, Any] | None) -> None:
        """What the shards say of the dataset is the same in all; where not, those are wrong that were changed."""
        reports = [(split, report) for split in splits for report in split.reports if report.header]
        whole = [report for split, report in reports if _is_as_claimed(split, report)]
        if whole:
            self._header = whole[0].header
        elif claims:
            self._header = {k: v for k, v in claims.items() if k not in ("rejected", "rejected_sha256", "splits")}
        elif reports:
            texts = Counter(json.dumps(report.header) for _, report in reports)
            self._header = json.loads(texts.most_common(1)[0][0])
        for split, report in reports:
            wrong_count = split.claimed and report.shards != len(split.claimed["shards"])
            differs = wrong_count or json.dumps(report.header) != json.dumps(self._header)
            if differs and not _is_as_claimed(split, report):
                self._blame(report, "the shard's description is not that of the other shards")

    def _blame(self, report: ShardReport, what: str) -> None:
        report.faults.append(Fault(report.shard.name, "", None, what))
        self._report(report.faults[-1])

    def _check_rejected(self, splits: list[_Split], claims: dict[str, Any] | None) -> tuple[str, int]:
        """The sha256 that rejected.jsonl should have, and how many lines."""
        path = self._data / _REJECTED
        found = path.read_bytes() if path.is_file() else None
        self._size += len(found or b"")
        claimed = claims["rejected_sha256"] if claims else ""
        sha256 = hashlib.sha256(found or b"").hexdigest()
        lists = [report.rejected for split in splits for report in split.reports]
        if found is None:
            self._fault(_REJECTED, "the file is missing")
        if any(rejected is None for rejected in lists) or any(split.missing for split in splits):
            if found is not None and sha256 != claimed:
                self._fault(_REJECTED, "the file cannot be checked before the shards are whole")
            return claimed, claims["rejected"] if claims else 0
        wanted = as_lines(row for rejected in lists for row in rejected or ())
        if found is not None and found != wanted:
            if sha256 != claimed:
                at = _first_difference(found, wanted)
                line = wanted[wanted.rfind(b"\n", 0, at) + 1 :].partition(b"\n")[0]
                key = json.loads(line)["key"] if line else ""
                self._fault(_REJECTED, "the file is damaged", key=key, offset=at)
            else:
                self._blame_rejected(splits)
                return claimed, claims["rejected"] if claims else 0
        return hashlib.sha256(wanted).hexdigest(), sum(len(rejected or ()) for rejected in lists)

    def _blame_rejected(self, splits: list[_Split]) -> None:
        for split in splits:
            for report in split.reports:
                if not report.faults and not _is_as_claimed(split, report):
                    self._blame(report, "the shard's list of rejected videos is damaged")

    def _check_dataset(
        self, splits: list[_Split], claims: dict[str, Any] | None, rejected: int, rejected_sha256: str
    ) -> None:
        """Every byte of dataset.json follows from the other files; of damaged ones, what it claims is taken."""
        if not claims or not self._header:
            return
        text = (self._data / _DATASET).read_bytes()
        self._size += len(text)
        counted = {}
        for split in splits:
            claimed = (split.claimed or {"shards": []})["shards"]
            entries = [
                claimed[report.shard.number]
                if report.faults and report.shard.number < len(claimed)
                else shard_entry(report.shard.number, report.videos, report.size, report.sha256)
                for report in split.reports
            ]
            counted[split.name] = {
                "videos": sum(report.videos for report in split.reports),
                "frames": sum(report.frames for report in split.reports),
                "index_sha256": split.index_sha256,
                "shards": entries,
            }
            if split.claimed and (split.missing or not split.index_sha256):
                counted[split.name] = split.claimed
        wanted = dataset_json(self._header, rejected, rejected_sha256, counted)
        if text != wanted and (claims["splits"].keys() == counted.keys()):
            at = _first_difference(text, wanted)
            self._fault(
                _DATASET, f"{_line(text, at)} where the shards say {_line(wanted, at)}: the file is damaged", offset=at
            )


def _tasks(index: Path, shards: list[ShardFile]) -> list[ShardTask]:
    """The shards of an index that is whole, each with its rows."""
    numbers = np.array(Index(index).column("shard"), np.int32)
    bounds = [
        (int(np.searchsorted(numbers, s.number)), int(np.searchsorted(numbers, s.number, "right"))) for s in shards
    ]
    return [ShardTask(shard, rows) for shard, rows in zip(shards, bounds, strict=True)]


def _header_of(shard: ShardFile) -> dict[str, Any] | None:
    try:
        return read_about(shard)[0]
    except Damaged:
        return None


def _is_as_claimed(split: _Split, report: ShardReport) -> bool:
    claimed = split.claimed["shards"] if split.claimed else []
    number = report.shard.number
    return number < len(claimed) and bool(claimed[number]["sha256"] == report.sha256)


def _counted(count: int, what: str) -> str:
    return f"{count} {what}{'s' * (count != 1)}"


def _first_difference(a: bytes, b: bytes) -> int:
    return next((at for at, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def _line(text: bytes, at: int) -> str:
    """The line of a text that holds a byte, without what surrounds it."""
    line = text[text.rfind(b"\n", 0, at) + 1 :].partition(b"\n")[0].decode(errors="replace").strip(" ,")
    return f"{line[:60]!r}"
