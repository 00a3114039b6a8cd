"""Lists of videos with their labels: text lines, or csv files with named columns."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from preprocess.datasets.annotations import (
    MOST_CLASSES,
    place,
    read_cells,
    read_lines,
    read_names,
    read_table,
    shortened,
    shown,
    split_in_name,
    to_index,
    to_span,
    to_split,
)
from preprocess.datasets.video_files import require_folder, stamps
from preprocess.errors import DataError
from preprocess.records import Listing, VideoRecord, draw_split, printable, safe_key

_COLUMNS = {
    "path": ("path", "video", "video_path", "file", "filename"),
    "label": ("label", "class", "labels"),
    "split": ("split", "subset"),
    "start": ("start",),
    "end": ("end",),
}
_DELIMITERS = (",", "\t", ";")
_AFTER_SUFFIX = re.compile(r"\.(?:mp4|mkv|webm|avi|mov|m4v|mpg|mpeg|wmv|flv|ts|3gp)\"?[ ]*([,;\t ])", re.IGNORECASE)
_INTEGER = re.compile(r"[+-]?[0-9]+")
_DRIVE = re.compile(r"[A-Za-z]:[\\/]|\\\\")


@dataclass(frozen=True, slots=True)
class _Row:
    where: str
    path: str
    labels: tuple[str, ...]
    split: str
    trim: tuple[float, float] | None


def list_videos_of_lists(
    lists: Sequence[Path], videos: Path, *, classes: Path | None = None, val_fraction: float = 0.0
) -> Listing:
    """List the videos that text or csv files name. No video is opened.

    A text file has a line ``PATH LABEL`` for each video, with a space, tab, comma or semicolon between; the label
    comes last, blank lines and lines that begin with # do not count. A csv file with a header has the columns path
    and label, and if need be split, start and end; of its cells several labels are parted by | or by a semicolon.

    Where every label is a whole number it is the index of a class, and ``classes`` may name a file with their names,
    one per line. Else labels are names, and classes are in their order in that file or in alphabetical order. The
    split is that of the row, or a word train, val or test in the name of the list; without either it is drawn: see
    ``draw_split``.

    A path begins at ``videos``. An absolute path that is not there is looked up below ``videos`` by its last two
    names, then by the last. A video with no file, or listed twice in a split, has a ``problem``.

    Raises DataError for a fault in a list, naming file and row, and if ``videos`` is missing or no folder.
    """
    require_folder(videos)
    names, is_number = _classes(lists, classes)
    numbers = {name: i for i, name in enumerate(names)}
    records = _records(lists, videos, numbers, is_number, val_fraction)
    return Listing("list", videos, tuple(map(printable, names)), records, {"val_fraction": val_fraction})


def _classes(lists: Sequence[Path], classes: Path | None) -> tuple[tuple[str, ...], bool]:
    """The names of the classes, and whether labels are their numbers. Goes through every row."""
    labels: dict[str, str] = {}
    for path in lists:
        for row in _rows(path):
            for label in row.labels:
                labels.setdefault(label, row.where)
    if not labels:
        raise DataError(f"{', '.join(map(printable, lists)) or 'no list'}: no row lists a video: name another file")
    names = dict.fromkeys(read_names(classes)) if classes else None
    if all(map(_INTEGER.fullmatch, labels)):
        count = len(names) if names else MOST_CLASSES
        greatest = max(to_index(label, where, count) for label, where in labels.items())
        return tuple(names or (f"class {i}" for i in range(greatest + 1))), True
    if names and classes:
        unknown = next((label for label in labels if label not in names), None)
        if unknown is not None:
            raise DataError(f"{labels[unknown]}: label {shown(unknown)} is none of {printable(classes)}: mend it")
    return tuple(names or sorted(labels)), False


def _records(
    lists: Sequence[Path], videos: Path, numbers: dict[str, int], is_number: bool, val_fraction: float
) -> Iterator[VideoRecord]:
    """Those with a split in the order of the rows, then those that got one drawn."""
    keys = _Keys(videos)
    undecided: list[VideoRecord] = []
    again: list[VideoRecord] = []
    for path in lists:
        for row in _rows(path):
            try:
                labels = {int(label) if is_number else numbers[label] for label in row.labels}
            except (KeyError, ValueError):
                raise DataError(f"{row.where}: the label was not there before: has the file changed?") from None
            source = _find(row.path, videos)
            key, first = keys.of(row, source)
            problem = f"listed before: {first}" if first else "" if source else f"missing: {shortened(row.path)}"
            record = VideoRecord(
                key, source or videos / key, tuple(sorted(labels)), row.split, trim=row.trim, problem=problem
            )
            if row.split:
                yield record
            else:
                (again if first else undecided).append(record)
    # A video that is listed twice is not drawn twice.
    split_of: dict[str, str] = {}
    for record in draw_split(undecided, val_fraction):
        split_of[record.key] = record.split
        yield record
    yield from (replace(record, split=split_of[record.key]) for record in again)


class _Keys:
    """Keys by the paths of the videos; different videos of a split get different ones."""

    def __init__(self, videos: Path) -> None:
        self._roots = (videos, videos.absolute())
        self._taken: dict[tuple[str, str], tuple[str, str]] = {}

    def of(self, row: _Row, source: Path | None) -> tuple[str, str]:
        """The key of a row, and where its video was listed before in its split, if it was."""
        *folders, name = self._parts(row.path, source)
        times = ""
        if row.trim:
            whole = all(time.is_integer() for time in row.trim)
            times = "_" + (stamps(row.trim) if whole else f"{row.trim[0]!r}_{row.trim[1]!r}")
        video = f"{source or row.path} {times}"
        # The name without suffix if no video before had it, else with, else the whole path, which no other has.
        for names in ((*folders, Path(name).stem + times), (*folders, name + times), (video,)):
            key = safe_key(*names)
            if (row.split, key) not in self._taken:
                self._taken[row.split, key] = (video, row.where)
                return key, ""
            before, where = self._taken[row.split, key]
            if before == video:
                return key, where
        raise AssertionError(f"two videos have the key {key}")

    def _parts(self, path: str, source: Path | None) -> tuple[str, ...]:
        if source is None:
            return _parts(path)[-2:] if _is_absolute(path) else _parts(path)
        root = next((root for root in self._roots if source.is_relative_to(root)), None)
        return source.relative_to(root).parts if root else source.parts[-2:]


def _find(path: str, videos: Path) -> Path | None:
    """The file that a path of a list means, None if there is none."""
    candidates = [videos / path]
    if _is_absolute(path):
        parts = _parts(path)
        candidates += [videos.joinpath(*parts[-2:]), videos / parts[-1]]
    elif "\\" in path:
        candidates.append(videos.joinpath(*_parts(path)))
    # Unlike Path.is_file it takes names that are too long for a file.
    return next((candidate for candidate in candidates if os.path.isfile(candidate)), None)  # noqa: PTH113


def _is_absolute(path: str) -> bool:
    return Path(path).is_absolute() or _DRIVE.match(path) is not None


def _parts(path: str) -> tuple[str, ...]:
    return tuple(part for part in re.split(r"[/\\]", path) if part not in ("", ".")) or (path,)


def _rows(path: Path) -> Iterator[_Row]:
    """The rows of a list, read meanwhile."""
    split = split_in_name(path)
    first = next((line for _, line in read_lines(path) if not _is_comment(line)), "")
    delimiter = next((d for d in _DELIMITERS if _is_header(first, d)), None)
    if delimiter is not None:
        yield from _table(path, delimiter, split)
        return
    after = [found[1] for found in _AFTER_SUFFIX.finditer(first)]
    delimiter = after[-1] if after else next((d for d in ("\t", ";", ",") if d in first), " ")
    for row, video, label in _lines(path) if delimiter == " " else _pairs(path, delimiter):
        yield _row(path, row, video, label, "|", split, None)


def _is_header(line: str, delimiter: str) -> bool:
    names = {name.strip().strip('"').lower() for name in line.split(delimiter)}
    return bool(names & set(_COLUMNS["path"]) and names & set(_COLUMNS["label"]))


def _table(path: Path, delimiter: str, split: str) -> Iterator[_Row]:
    for row, cells in read_table(path, _COLUMNS, ("path", "label"), delimiter):
        where = place(path, row)
        start, end = cells.get("start", ""), cells.get("end", "")
        trim = to_span(start, end, where, ("start", "end")) if start or end else None
        own = to_split(cells["split"], where) if "split" in cells else split
        yield _row(path, row, cells["path"], cells["label"], "|;", own, trim)


def _lines(path: Path) -> Iterator[tuple[int, str, str]]:
    for row, line in read_lines(path):
        if not _is_comment(line):
            parts = line.strip().rsplit(None, 1)
            if len(parts) < 2:
                raise DataError(f"{place(path, row)}: is no video with its label: mend it")
            yield row, parts[0], parts[1]


def _pairs(path: Path, delimiter: str) -> Iterator[tuple[int, str, str]]:
    for row, cells in read_cells(path, delimiter):
        if not cells[0].lstrip().startswith("#"):
            if len(cells) < 2:
                raise DataError(f"{place(path, row)}: is no video with its label after {shown(delimiter)}: mend it")
            # A path may hold the delimiter.
            yield row, delimiter.join(cells[:-1]), cells[-1]


def _row(
    path: Path, row: int, video: str, label: str, between: str, split: str, trim: tuple[float, float] | None
) -> _Row:
    where = place(path, row)
    labels = tuple(part.strip() for part in re.split(f"[{between}]", label))
    if not video.strip():
        raise DataError(f"{where}: the path is empty: mend it")
    if not all(labels):
        raise DataError(f"{where}: a label is empty: mend it")
    return _Row(where, video.strip(), labels, split, trim)


def _is_comment(line: str) -> bool:
    return not line.strip() or line.lstrip().startswith("#")
