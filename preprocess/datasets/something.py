"""Something-Something: version 1 with csv files and folders of pictures, version 2 with JSON files and videos."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from preprocess.datasets.annotations import (
    FirstPlaces,
    place,
    read_json,
    read_lines,
    read_names,
    shortened,
    shown,
    split_in_name,
    to_index,
    to_text,
)
from preprocess.datasets.video_files import SUFFIXES, VideoFiles, require_folder
from preprocess.errors import DataError
from preprocess.records import Listing, VideoRecord, printable, safe_key

_Rows: TypeAlias = Callable[[Path, str], Iterator[tuple[int, str, str]]]

# Version 1 was released as pictures taken at this rate.
FRAME_RATE = 12


@dataclass(frozen=True, slots=True)
class _Video:
    id: str
    labels: tuple[int, ...]
    split: str
    problem: str


def list_something(annotations: Sequence[Path], videos: Path) -> Listing:
    """List the videos of Something-Something in the order of the files. Neither a video nor a picture is opened.

    Version 1 is csv files without header: one with ``labels`` in its name and a class on each line, and
    ``ID;CLASS`` in those named with train or validation, ``ID`` in the test split; the pictures of a video lie in
    ``videos/ID``. Version 2 is JSON files: one with ``labels`` in its name, and those of the splits; videos lie below
    ``videos``, named by their ids. Classes keep the order of the labels. A video with no file or folder, or listed
    twice in a split, has a ``problem``.

    Raises DataError for a fault in a file, naming file and row or entry, and if ``videos`` is missing or no folder.
    """
    require_folder(videos)
    suffixes = {path.suffix.lower() for path in annotations}
    labels = [path for path in annotations if _is_labels(path)]
    splits = [path for path in annotations if path not in labels]
    listed = ", ".join(map(printable, annotations)) or "no file"
    if suffixes not in ({".csv"}, {".json"}):
        raise DataError(f"{listed}: name the csv files of version 1, or the json files of version 2")
    if len(labels) != 1 or not splits:
        raise DataError(f"{listed}: name one file of labels, and those of the splits, as in train and validation")
    for path in splits:
        if not split_in_name(path):
            raise DataError(f"{printable(path)}: its name has no word train, validation or test: rename it")
    if suffixes == {".csv"}:
        classes = read_names(labels[0])
        records = _frames(splits, classes, videos)
    else:
        classes = _read_labels(labels[0])
        records = _videos(splits, classes, videos)
    return Listing("something", videos, tuple(map(printable, classes)), records)


def _is_labels(path: Path) -> bool:
    return "labels" in path.stem.lower()


def _frames(splits: Sequence[Path], classes: Sequence[str], videos: Path) -> Iterator[VideoRecord]:
    """The records of version 1. What an id names is only looked up among the folders that are there."""
    with os.scandir(videos) as entries:
        folders = {entry.name for entry in entries if entry.is_dir()}
    for video in _listed(splits, classes, _csv_rows, "row"):
        source = videos / video.id if video.id in folders else None
        yield _record(video, source, videos, f"folder {shortened(video.id)}", FRAME_RATE)


def _videos(splits: Sequence[Path], classes: Sequence[str], videos: Path) -> Iterator[VideoRecord]:
    """The records of version 2."""
    files = VideoFiles(videos)
    for video in _listed(splits, classes, _json_rows, "entry"):
        source = files.find(video.id, split=video.split)
        yield _record(video, source, videos, f"{shortened(video.id)}{{{','.join(SUFFIXES)}}}", 0)


def _record(video: _Video, source: Path | None, videos: Path, looked_for: str, frame_rate: int) -> VideoRecord:
    problem = video.problem or ("" if source else f"missing: {looked_for}")
    key = safe_key(video.id)
    return VideoRecord(key, source or videos / key, video.labels, video.split, frame_rate=frame_rate, problem=problem)


def _listed(splits: Sequence[Path], classes: Sequence[str], rows_of: _Rows, unit: str) -> Iterator[_Video]:
    numbers = {name: i for i, name in enumerate(classes)}
    listed = FirstPlaces()
    for path in splits:
        split = split_in_name(path)
        for row, video_id, label in rows_of(path, split):
            if label and label not in numbers:
                raise DataError(f"{printable(path)} {unit} {row}: {shown(label)} is none of the labels: mend it")
            problem = listed.problem(split, video_id, path, row, unit)
            yield _Video(video_id, (numbers[label],) if label else (), split, problem)


def _csv_rows(path: Path, split: str) -> Iterator[tuple[int, str, str]]:
    for row, line in read_lines(path):
        if not line.strip():
            continue
        video_id, _, label = (cell.strip() for cell in line.partition(";"))
        if not video_id:
            raise DataError(f"{place(path, row)}: the id is empty: mend it")
        if not label and split != "test":
            raise DataError(f"{place(path, row)}: has no label after a semicolon: mend it")
        yield row, video_id, label


def _json_rows(path: Path, split: str) -> Iterator[tuple[int, str, str]]:
    content = read_json(path)
    if not isinstance(content, list):
        raise DataError(f"{printable(path)} is {shown(content)}, not a list of videos: mend it")
    if not content:
        raise DataError(f"{printable(path)} lists no video: name another file")
    for row, entry in enumerate(content, 1):
        where = f"{printable(path)} entry {row}"
        if not isinstance(entry, dict):
            raise DataError(f"{where}: is {shown(entry)}, not an object with an id: mend it")
        label = ""
        if split != "test" or "template" in entry:
            label = to_text(entry.get("template"), where, "template").replace("[", "").replace("]", "")
        yield row, to_text(entry.get("id"), where, "id"), label


def _read_labels(path: Path) -> tuple[str, ...]:
    """The classes of version 2: an object of name to index."""
    content = read_json(path)
    if not isinstance(content, dict):
        raise DataError(f"{printable(path)} is {shown(content)}, not an object of label to number: mend it")
    if not content:
        raise DataError(f"{printable(path)} holds no label: name another file")
    names: dict[int, str] = {}
    for name, number in content.items():
        where = f"{printable(path)} label {shown(name)}"
        to_text(name, where, "name")
        is_number = isinstance(number, int) and not isinstance(number, bool) and 0 <= number < len(content)
        index = number if is_number else to_index(to_text(number, where, "number"), where, len(content))
        if index in names:
            raise DataError(f"{where}: has the number {index}, as {shown(names[index])} has: mend it")
        names[index] = name
    return tuple(names[index] for index in range(len(names)))
