"""Annotation files: lines, csv and JSON. Every fault is a DataError of one line that names the file and the row."""

from __future__ import annotations

import csv
import json
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from preprocess.errors import DataError
from preprocess.records import printable

# What a person may call a split, and what it is called here.
SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validate", "validation"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
# More classes than any dataset has: a greater label is a mistake, and would make as many names.
MOST_CLASSES = 100_000
_LONGEST_LINE = 1 << 20
_LARGEST_JSON = 1 << 30
_NUMBER = re.compile(r"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
_INDEX = re.compile(r"[0-9]{1,9}")


def place(path: Path, row: int) -> str:
    """A row as messages name it. Rows are lines of the file, the first is 1."""
    return f"{printable(path)} row {row}"


def shortened(text: str) -> str:
    """A text as messages show it: on one line and not too long."""
    kept = text[:60].encode("utf-8", "backslashreplace").decode()
    return f"{printable(kept)}{'…' if len(text) > 60 else ''}"


def shown(value: object) -> str:
    """A value as messages show it: a text in quotes, anything that may be long by its kind."""
    if isinstance(value, str):
        return f"'{shortened(value)}'"
    if value is None or isinstance(value, (bool, float)):
        return json.dumps(value)
    kinds = {int: "a whole number", list: "a list", dict: "an object"}
    return kinds[type(value)]


def split_in_name(path: Path) -> str:
    """The split that the name of a file has as a word, as in ``k400_validate.csv``; empty if none or several."""
    words = re.split(r"[^a-z]+", path.stem.lower())
    found = {SPLITS[word] for word in words if word in SPLITS}
    return found.pop() if len(found) == 1 else ""


def to_split(cell: str, where: str) -> str:
    """``train``, ``val`` or ``test``. Raises DataError for what is none of their names."""
    split = SPLITS.get(cell.strip().lower())
    if split is None:
        raise DataError(f"{where}: split is {shown(cell)}, not train, val or test: mend it")
    return split


def to_number(cell: str, where: str, name: str) -> float:
    """A finite number. Raises DataError for anything else."""
    text = cell.strip()
    number = float(text) if _NUMBER.fullmatch(text) else math.nan
    if not math.isfinite(number):
        raise DataError(f"{where}: {name} is {shown(cell)}, not a number: mend it")
    return number


def to_span(start: str, end: str, where: str, names: tuple[str, str]) -> tuple[float, float]:
    """Two times in seconds, 0 <= start < end. Raises DataError for others."""
    span = to_number(start, where, names[0]), to_number(end, where, names[1])
    if not 0 <= span[0] < span[1]:
        raise DataError(f"{where}: from {names[0]} {span[0]:g} to {names[1]} {span[1]:g} is no time: mend it")
    return span


def to_index(text: str, where: str, classes: int = MOST_CLASSES) -> int:
    """A class index below ``classes``. Raises DataError for anything else."""
    index = int(text) if _INDEX.fullmatch(text) else -1
    if not 0 <= index < classes:
        raise DataError(f"{where}: label is {shown(text)}, not a class from 0 to {classes - 1}: mend it")
    return index


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Number and text of each line, without its line break; the file is read meanwhile.

    Raises DataError, at the line, for what is no UTF-8 text, and if the file is missing, is empty or is no file.
    """
    row = 0
    with _opened(path) as file:
        while raw := file.readline(_LONGEST_LINE):
            row += 1
            if len(raw) == _LONGEST_LINE:
                raise DataError(f"{place(path, row)}: is longer than {_LONGEST_LINE:,} bytes: is it a text file?")
            yield row, _decoded(raw, place(path, row), first=row == 1).rstrip("\n").removesuffix("\r")
    if not row:
        raise DataError(f"{printable(path)} is empty: name another file")


def read_names(path: Path) -> tuple[str, ...]:
    """The names of classes, one per line. Raises DataError for a file with none, a blank line or a name twice."""
    first: dict[str, int] = {}
    blank = 0
    for row, line in read_lines(path):
        name = line.strip()
        if not name:
            blank = blank or row
        elif blank:
            raise DataError(f"{place(path, blank)}: is blank, where a class name should be: mend it")
        elif name in first:
            raise DataError(f"{place(path, row)}: {shown(name)} is listed before, in row {first[name]}: mend it")
        else:
            first[name] = row
    if not first:
        raise DataError(f"{printable(path)} holds no class name: name another file")
    return tuple(first)


def read_cells(path: Path, delimiter: str = ",") -> Iterator[tuple[int, list[str]]]:
    """The row where it begins, and the cells, of each row of a csv file that is not blank; read meanwhile.

    Raises DataError as ``read_lines`` does, and for quotes that do not match.
    """
    lines = (line + "\n" for _, line in read_lines(path))
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    while True:
        row = reader.line_num + 1
        try:
            cells = next(reader, None)
        except csv.Error as error:
            raise DataError(f"{place(path, row)}: is no row of a csv file ({error}): mend it") from None
        if cells is None:
            return
        if any(cells):
            yield row, cells


def read_table(
    path: Path, columns: Mapping[str, Sequence[str]], required: Sequence[str], delimiter: str = ","
) -> Iterator[tuple[int, dict[str, str]]]:
    """The row and the cells of each row below the header of a csv file, by the keys of ``columns``; read meanwhile.

    ``columns`` maps a key to the names that its column may have, the first of them in the header wins; a column that
    is not there is not in the rows. Raises DataError as ``read_cells`` does, for a ``required`` column that is not
    there, for a row of another length than the header, and if there is no row.
    """
    rows = read_cells(path, delimiter)
    header_row, header = next(rows, (1, []))
    names = [name.strip().lower() for name in header]
    at: dict[str, int] = {}
    for key, choices in columns.items():
        choice = next((name for name in choices if name in names), None)
        if choice is None:
            if key in required:
                raise DataError(f"{place(path, header_row)}: the header has no column {' or '.join(choices)}: add it")
        elif names.count(choice) > 1:
            raise DataError(f"{place(path, header_row)}: the header has the column {choice} twice: mend it")
        else:
            at[key] = names.index(choice)
    some = False
    for row, cells in rows:
        some = True
        if len(cells) != len(names):
            raise DataError(f"{place(path, row)}: has {len(cells)} cells, the header {len(names)}: mend it")
        yield row, {key: cells[column].strip() for key, column in at.items()}
    if not some:
        raise DataError(f"{printable(path)} holds no row below its header: name another file")


def read_json(path: Path) -> Any:
    """What a JSON file holds.

    Raises DataError if the file is missing, is no file or no JSON; also for NaN, for a name twice in one object, and
    for more than anybody nests.
    """
    with _opened(path) as file:
        raw = file.read(_LARGEST_JSON)
    if len(raw) == _LARGEST_JSON:
        raise DataError(f"{printable(path)} is larger than {_LARGEST_JSON:,} bytes: is it an annotation file?")
    text = _decoded(raw, printable(path), first=True)
    try:
        return json.loads(text, parse_constant=_refuse_constant, object_pairs_hook=_distinct)
    except RecursionError:
        raise DataError(f"{printable(path)} is nested too deeply: is it an annotation file?") from None
    except ValueError as error:
        # Also whole numbers of more digits than Python takes.
        raise DataError(f"{printable(path)} is no JSON ({error}): mend it") from None


def to_text(value: object, where: str, name: str) -> str:
    """A text of JSON that is not empty. Raises DataError for anything else, also for half a surrogate pair."""
    if not isinstance(value, str) or not value.strip():
        raise DataError(f"{where}: {name} is {shown(value)}, not a text: mend it")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise DataError(f"{where}: {name} is {shown(value)}, which is no Unicode text: mend it") from None
    return value.strip()


class FirstPlaces:
    """Where each key of each split is listed first."""

    def __init__(self) -> None:
        self._first: dict[str, dict[str, tuple[Path, int]]] = {}

    def problem(self, split: str, key: str, path: Path, row: int, what: str = "row") -> str:
        """Empty for a key that is new in its split, else the problem of a record that was listed before."""
        listed = self._first.setdefault(split, {})
        if key not in listed:
            listed[key] = (path, row)
            return ""
        first_path, first_row = listed[key]
        return f"listed before: {printable(first_path)} {what} {first_row}"


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    try:
        if not path.is_file():
            what = "is a folder" if path.is_dir() else "is no file" if path.exists() else "is missing"
            raise DataError(f"{printable(path)} {what}: name an annotation file")
        with path.open("rb") as file:
            yield file
    except PermissionError:
        raise
    except OSError as error:
        raise DataError(f"{printable(path)} cannot be read: {error.strerror or error}") from None


def _decoded(raw: bytes, where: str, first: bool) -> str:
    try:
        text = raw.decode("utf-8-sig" if first else "utf-8")
    except UnicodeDecodeError:
        raise DataError(f"{where}: is no UTF-8 text: save the file as UTF-8") from None
    if "\0" in text:
        raise DataError(f"{where}: holds a NUL byte: save the file as UTF-8 text")
    return text


def _refuse_constant(name: str) -> None:
    raise ValueError(f"it holds {name}")


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        ((twice, _),) = Counter(name for name, _ in pairs).most_common(1)
        raise ValueError(f"it has {shown(twice)} twice in one object")
    return found
