import os
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from preprocess.datasets import annotations
from preprocess.datasets.annotations import (
    FirstPlaces,
    read_cells,
    read_json,
    read_lines,
    read_names,
    read_table,
    shown,
    split_in_name,
    to_index,
    to_number,
    to_span,
    to_split,
    to_text,
)
from preprocess.errors import DataError

COLUMNS = {"path": ("path", "video"), "label": ("label",), "split": ("split",)}


def table(path, delimiter=","):
    return list(read_table(path, COLUMNS, ("path", "label"), delimiter))


READERS = {
    "lines": read_lines,
    "names": read_names,
    "cells": read_cells,
    "table": table,
    "json": lambda path: [read_json(path)],
}


def fault(path, read):
    """The message of the DataError that reading a file must raise, without the path it must begin with."""
    with pytest.raises(DataError) as caught:
        list(read(path))
    text = str(caught.value)
    assert "\n" not in text
    assert text.startswith(str(path))
    return text.removeprefix(str(path))


@pytest.mark.parametrize("read", READERS.values(), ids=READERS)
@given(content=st.binary() | st.text().map(str.encode))
def test_any_bytes_are_read_or_named(folder, read, content):
    path = folder / "any.csv"
    path.write_bytes(content)
    try:
        list(read(path))
    except DataError as error:
        assert str(error).startswith(str(path))
        assert "\n" not in str(error)


@pytest.mark.parametrize("read", READERS.values(), ids=READERS)
def test_what_is_no_file_to_read(tmp_path, read):
    assert fault(tmp_path / "nowhere", read) == " is missing: name an annotation file"
    assert fault(tmp_path, read) == " is a folder: name an annotation file"
    os.mkfifo(tmp_path / "fifo")
    assert fault(tmp_path / "fifo", read) == " is no file: name an annotation file"
    (tmp_path / "round").symlink_to("round")
    assert fault(tmp_path / "round", read) == " is missing: name an annotation file"
    assert "cannot be read" in fault(tmp_path / ("x" * 300), read)
    with pytest.raises(DataError, match=r"nul\\x00 is missing: name an annotation file$"):
        list(read(tmp_path / "nul\0"))


def test_lines(tmp_path):
    path = tmp_path / "list.txt"
    path.write_bytes("\ufeffä b\r\n\n c \rd\n#\ne".encode())
    assert list(read_lines(path)) == [(1, "ä b"), (2, ""), (3, " c \rd"), (4, "#"), (5, "e")]


def test_lines_are_read_as_they_are_asked_for(tmp_path):
    path = tmp_path / "list.txt"
    path.write_bytes(b"a\n" * 100_000 + b"\xff\n")
    lines = read_lines(path)
    assert next(lines) == (1, "a")
    assert next(lines) == (2, "a")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", " is empty: name another file"),
        (b"a\n\xff\nc\n", " row 2: is no UTF-8 text: save the file as UTF-8"),
        (b"a\nb\0\nc\n", " row 2: holds a NUL byte: save the file as UTF-8 text"),
        ("a\nb".encode("utf-16"), " row 1: is no UTF-8 text: save the file as UTF-8"),
        (b"a\n" + b"x" * 2_000_000, " row 2: is longer than 1,048,576 bytes: is it a text file?"),
    ],
)
def test_lines_that_are_no_text(tmp_path, content, said):
    path = tmp_path / "list.txt"
    path.write_bytes(content)
    assert fault(path, read_lines) == said


def test_names(tmp_path):
    path = tmp_path / "names.txt"
    path.write_text(" air drumming\nb\r\n\n\n")
    assert read_names(path) == ("air drumming", "b")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("\n\n", " holds no class name: name another file"),
        ("a\n\nb\n", " row 2: is blank, where a class name should be: mend it"),
        ("a\nb\na \n", " row 3: 'a' is listed before, in row 1: mend it"),
    ],
)
def test_names_with_faults(tmp_path, content, said):
    path = tmp_path / "names.txt"
    path.write_text(content)
    assert fault(path, read_names) == said


def test_table(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_bytes('\ufeff"Label", VIDEO ,other\r\n"a ""b"", c",x.mp4,\r\n\r\n,,\r\nd,"y\nz",1\r\ne,w,2'.encode())
    assert table(path) == [
        (2, {"path": "x.mp4", "label": 'a "b", c'}),
        (5, {"path": "y\nz", "label": "d"}),
        (7, {"path": "w", "label": "e"}),
    ]


def test_table_takes_the_first_name_of_a_column(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text("video\tlabel\tpath\tsplit\nv\tl\tp\ts\n")
    assert table(path, "\t") == [(2, {"path": "p", "label": "l", "split": "s"})]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("\n\n", " row 1: the header has no column path or video: add it"),
        ("path,x\na,b\n", " row 1: the header has no column label: add it"),
        ("\npath,label,path\na,b,c\n", " row 2: the header has the column path twice: mend it"),
        ("path,label\n", " holds no row below its header: name another file"),
        ("path,label\na,b\na,b,c\n", " row 3: has 3 cells, the header 2: mend it"),
        ("path,label\na,b\na\n", " row 3: has 1 cells, the header 2: mend it"),
        ('path,label\n"a"b,c\n', " row 2: is no row of a csv file (',' expected after '\"'): mend it"),
        ('path,label\na,b\na,"b\nc,d\n', " row 3: is no row of a csv file (unexpected end of data): mend it"),
        (
            "path,label\na," + "x" * 200_000,
            " row 2: is no row of a csv file (field larger than field limit (131072)): mend it",
        ),
    ],
)
def test_table_with_faults(tmp_path, content, said):
    path = tmp_path / "rows.csv"
    path.write_text(content)
    assert fault(path, table) == said


def test_line_breaks_of_old(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_bytes(b"path,label\ra,b\r")
    assert re.match(r" row 1: is no row of a csv file \(new-line character", fault(path, table))


def test_json(tmp_path):
    path = tmp_path / "a.json"
    path.write_bytes('\ufeff{"a": [1, 2.5, null, "ä"]}'.encode())
    assert read_json(path) == {"a": [1, 2.5, None, "ä"]}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", " is no JSON (Expecting value: line 1 column 1 (char 0)): mend it"),
        (b'{"a": NaN}', " is no JSON (it holds NaN): mend it"),
        (b"[-Infinity]", " is no JSON (it holds -Infinity): mend it"),
        (b'{"a": 1, "b": 2, "b": 3}', " is no JSON (it has 'b' twice in one object): mend it"),
        (b"\xff", ": is no UTF-8 text: save the file as UTF-8"),
        (b'"\0"', ": holds a NUL byte: save the file as UTF-8 text"),
        (b"[" * 100_000, " is nested too deeply: is it an annotation file?"),
        (b'{"a":' * 100_000, " is nested too deeply: is it an annotation file?"),
    ],
)
def test_json_with_faults(tmp_path, content, said):
    path = tmp_path / "a.json"
    path.write_bytes(content)
    assert fault(path, read_json) == said


def test_json_with_a_number_of_too_many_digits(tmp_path):
    path = tmp_path / "a.json"
    path.write_text("9" * 10_000)
    assert " is no JSON (Exceeds the limit" in fault(path, read_json)


def test_json_of_more_than_anybody_writes(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    path.write_text("[1, 2, 3]")
    monkeypatch.setattr(annotations, "_LARGEST_JSON", 5)
    assert fault(path, read_json) == " is larger than 5 bytes: is it an annotation file?"


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("train.csv", "train"),
        ("k400_Training-list.txt", "train"),
        ("kinetics700validate.csv", "val"),
        ("a.val.csv", "val"),
        ("something-something-v1-validation", "val"),
        ("test1.csv", "test"),
        ("trainval.csv", ""),
        ("train_val.csv", ""),
        ("train_training.csv", "train"),
        ("interval.csv", ""),
        ("train/list.csv", ""),
    ],
)
def test_split_in_a_name(tmp_path, name, split):
    assert split_in_name(tmp_path / name) == split


def test_cells_of_a_kind():
    assert [to_split(cell, "f row 2") for cell in ("train", " Validate ", "testing")] == ["train", "val", "test"]
    assert [to_number(cell, "f row 2", "t") for cell in ("1", " -1.5e3", ".5", "3.")] == [1, -1500, 0.5, 3]
    assert to_span("0", "1.5", "f row 2", ("start", "end")) == (0, 1.5)
    assert [to_index("007", "f row 2"), to_index("0", "f row 2", 1)] == [7, 0]
    assert to_text(" ä ", "f", "id") == "ä"


@pytest.mark.parametrize(
    ("convert", "said"),
    [
        (lambda where: to_split("", where), "split is '', not train, val or test: mend it"),
        (lambda where: to_number("abc", where, "t"), "t is 'abc', not a number: mend it"),
        (lambda where: to_number("nan", where, "t"), "t is 'nan', not a number: mend it"),
        (lambda where: to_number("1_0", where, "t"), "t is '1_0', not a number: mend it"),
        (lambda where: to_number("1e999", where, "t"), "t is '1e999', not a number: mend it"),
        (lambda where: to_number("9" * 999, where, "t"), f"t is '{'9' * 60}…', not a number: mend it"),
        (lambda where: to_number("9" * 131_000 + "x", where, "t"), f"t is '{'9' * 60}…', not a number: mend it"),
        (lambda where: to_number("1\n\x1b", where, "t"), "t is '1\\n\\x1b', not a number: mend it"),
        (lambda where: to_span("2", "2", where, ("s", "e")), "from s 2 to e 2 is no time: mend it"),
        (lambda where: to_span("-1", "2", where, ("s", "e")), "from s -1 to e 2 is no time: mend it"),
        (lambda where: to_index("-1", where), "label is '-1', not a class from 0 to 99999: mend it"),
        (lambda where: to_index("3", where, 3), "label is '3', not a class from 0 to 2: mend it"),
        (lambda where: to_index("٣", where, 4), "label is '٣', not a class from 0 to 3: mend it"),
        (lambda where: to_index("9" * 5000, where), f"label is '{'9' * 60}…', not a class from 0 to 99999: mend it"),
        (lambda where: to_text(3, where, "id"), "id is a whole number, not a text: mend it"),
        (lambda where: to_text(" ", where, "id"), "id is ' ', not a text: mend it"),
        (lambda where: to_text("\ud800", where, "id"), "id is '\\ud800', which is no Unicode text: mend it"),
    ],
)
def test_cells_that_are_not(convert, said):
    with pytest.raises(DataError) as caught:
        convert("file row 2")
    assert str(caught.value) == f"file row 2: {said}"


@given(st.recursive(st.none() | st.booleans() | st.floats() | st.integers() | st.text(), st.lists))
def test_any_value_can_be_shown(value):
    assert len(shown(value).splitlines()) == 1
    assert len(shown(value).encode()) < 700


def test_first_places(tmp_path):
    places = FirstPlaces()
    path = tmp_path / "a.csv"
    assert places.problem("train", "k", path, 2) == ""
    assert places.problem("val", "k", path, 3) == ""
    assert places.problem("train", "k", path, 4) == f"listed before: {path} row 2"
    # The same file named twice.
    assert places.problem("train", "k", path, 2) == f"listed before: {path} row 2"
