"""What a dataset holds: splits, classes, how it was made, and what was left out."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from rich.table import Column, Table

from preprocess.errors import DataError
from preprocess.index import Dataset, read_dataset

_CLASSES_NAMED = 10


@dataclass(frozen=True)
class SplitInfo:
    """A split: videos, frames, hours of the sources, shards and their bytes, and videos of each class in order.

    ``labels`` may add up to more than the videos, as a video may have several, and to fewer: ``unlabelled`` have none.
    """

    videos: int
    frames: int
    hours: float
    shards: int
    bytes: int
    unlabelled: int
    labels: tuple[int, ...]


@dataclass(frozen=True)
class Info:
    """What ``v4d info`` says; ``as_json`` gives the same as one document."""

    name: str
    kind: str
    codec: str
    gop: int
    size: tuple[int, int] | None
    classes: tuple[str, ...]
    splits: dict[str, SplitInfo]
    rejected: dict[str, int]
    options: dict[str, Any]

    def as_json(self) -> str:
        return json.dumps(asdict(self), ensure_ascii=False, indent=2)

    def show(self, every_class: bool) -> Iterator[Table | str]:
        """What to print for a person; ``every_class`` adds a table with the videos of each class."""
        size = f"{self.size[0]}x{self.size[1]}" if self.size else "sizes that differ"
        layers = self.options.get("layers", 1)
        gop = f"GOP {self.gop}" + f" in {layers} layers" * (layers > 1)
        yield f"{self.name}: {self.kind}, {len(self.classes)} classes, {self.codec}, {gop}, {size}"
        yield self._splits()
        yield from self._classes() if every_class else self._summary()
        if self.rejected:
            yield f"left out, {sum(self.rejected.values())} videos:"
            yield from (f"  {count:,} {reason}" for reason, count in self.rejected.items())
        yield "made with:"
        yield from (f"  {name} {value}" for name, value in self.options.items())

    def _splits(self) -> Table:
        table = Table("split", *_right("videos", "frames", "hours", "shards", "MB"))
        for name, split in self.splits.items():
            numbers = f"{split.videos:,}", f"{split.frames:,}", f"{split.hours:,.2f}", f"{split.shards:,}"
            table.add_row(name, *numbers, f"{split.bytes / 1e6:,.1f}")
        return table

    def _classes(self) -> Iterator[Table | str]:
        table = Table("", "class", *_right(*self.splits))
        for number, name in enumerate(self.classes):
            table.add_row(str(number), name, *(f"{split.labels[number]:,}" for split in self.splits.values()))
        yield table

    def _summary(self) -> Iterator[str]:
        for name, split in self.splits.items():
            counts = split.labels
            without = f", {split.unlabelled:,} videos without a label" if split.unlabelled else ""
            if not any(counts):
                yield f"{name}: no video has a label" if split.videos else f"{name}: no videos"
                continue
            spread = f"{min(counts):,} to {max(counts):,}, median {median(counts):g}"
            yield f"{name}: videos per class {spread}{without}"
            if empty := [self.classes[label] for label, count in enumerate(counts) if not count]:
                more = f" and {len(empty) - _CLASSES_NAMED} more" if len(empty) > _CLASSES_NAMED else ""
                yield f"{name}: no video of {len(empty)} classes: {', '.join(empty[:_CLASSES_NAMED])}{more}"


def read_info(data: Path) -> Info:
    """Read what a dataset says of itself; the shards are not opened.

    Raises DataError if it is none, or a file of it is missing or cannot be read.
    """
    dataset = read_dataset(data)
    try:
        content = json.loads((data / "dataset.json").read_bytes())
        # Not splitlines, which takes more for the end of a line than JSON does.
        lines = (data / "rejected.jsonl").read_text(encoding="utf-8").split("\n")[:-1]
        reasons = Counter(json.loads(line)["reason"].partition(":")[0] for line in lines)
        return Info(
            name=dataset.name,
            kind=dataset.kind,
            codec=dataset.codec,
            gop=content["gop"],
            size=dataset.size,
            classes=dataset.classes,
            splits={split: _split(dataset, split) for split in dataset.splits},
            rejected=dict(reasons.most_common()),
            options=dataset.options,
        )
    except (KeyError, TypeError, ValueError, IndexError, OSError) as error:
        raise DataError(f"{data} is damaged ({error}): v4d verify {data} says where") from None


def _split(dataset: Dataset, split: str) -> SplitInfo:
    index, about = dataset.split(split), dataset.splits[split]
    counts = [0] * len(dataset.classes)
    unlabelled = 0
    for labels in index.column("labels"):
        unlabelled += not labels
        for label in set(labels):
            counts[label] += 1
    seconds = sum(index.column("end")) - sum(index.column("start"))
    return SplitInfo(
        videos=about["videos"],
        frames=about["frames"],
        hours=seconds / 3600,
        shards=len(about["shards"]),
        bytes=sum(shard["bytes"] for shard in about["shards"]),
        unlabelled=unlabelled,
        labels=tuple(counts),
    )


def _right(*names: str) -> list[Column]:
    return [Column(name, justify="right") for name in names]
