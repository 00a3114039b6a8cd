"""Which videos the bytes belong to in which two index files differ. The damaged file is compared, never opened.

Arrow ends the whole process on some damaged files.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from preprocess.shard_reader import Fault

_BLOCK = 1 << 24
_DIFFERENCES_LOCATED = 100_000


def index_faults(damaged: Path, reference: Path, name: str) -> list[Fault]:
    """What is wrong with an index, ``name`` in messages: one fault for each video and kind of damage."""
    faults = []
    if (size := damaged.stat().st_size) != (wanted := reference.stat().st_size):
        faults.append(Fault(name, "", min(size, wanted), f"the file has {size} bytes, not {wanted}: it differs"))
    places = _differences(damaged, reference)
    if len(places) > _DIFFERENCES_LOCATED:
        faults.append(Fault(name, "", int(places[0]), f"{len(places)} bytes differ, of which not all are located,"))
    seen = set()
    for at, key, what in _owners(reference, places[:_DIFFERENCES_LOCATED]):
        if (key, what) not in seen:
            seen.add((key, what))
            faults.append(Fault(name, key, at, what))
    return faults


def _mapped(path: Path) -> np.ndarray:
    with open(path, "rb") as file:
        if not path.stat().st_size:
            return np.empty(0, np.uint8)
        return np.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), np.uint8)


def _differences(damaged: Path, reference: Path) -> np.ndarray:
    """Where the bytes are that differ, as far as both files go."""
    a, b = _mapped(damaged), _mapped(reference)
    size = min(len(a), len(b))
    found = [
        np.flatnonzero(a[at : at + _BLOCK][: size - at] != b[at : at + _BLOCK][: size - at]) + at
        for at in range(0, size, _BLOCK)
    ]
    return np.concatenate(found) if found else np.empty(0, np.int64)


def _owners(reference: Path, places: np.ndarray) -> Iterator[tuple[int, str, str]]:
    """For each place the key of its video and what lies there; a place in a list's ends belongs to two videos."""
    buffer = pa.py_buffer(_mapped(reference))
    reader = pa.ipc.open_file(buffer)
    begins = 0
    for number in range(reader.num_record_batches):
        batch = reader.get_batch(number)
        buffers = [
            (memory.address - buffer.address, memory.size, field.name, rows)
            for field, column in zip(batch.schema, batch.columns, strict=True)
            for memory, rows in _buffers(column, np.arange(len(column) + 1))
        ]
        ends = max(at + size for at, size, _, _ in buffers)
        keys = batch.column("key")
        columns = "" if number else "of the columns, or "
        description = f"the description {columns}of the videos '{keys[0]}' to '{keys[-1]}', is damaged"
        for place in places[np.searchsorted(places, begins) : np.searchsorted(places, ends)].tolist():
            owner = next((b for b in buffers if b[0] <= place < b[0] + b[1]), None)
            rows = owner[3](place - owner[0]) if owner else []
            for row in rows:
                yield place, str(keys[row]), f"its {owner[2] if owner else ''} is damaged"
            if not rows:
                yield place, "", description
        begins = ends
    for place in places[np.searchsorted(places, begins) :].tolist():
        yield place, "", "the description of the columns, at the end of the file, is damaged"


def _buffers(column: Any, starts: np.ndarray) -> Iterator[tuple[Any, Any]]:
    """Each buffer of a column, and a function that gives the rows that a byte of it belongs to.

    The values ``starts[r]`` to ``starts[r + 1] - 1`` are those of row ``r``.
    """

    def of_values(width: int) -> Any:
        return lambda at: _rows(starts, at // width)

    def of_ends(at: int) -> list[int]:
        # An end is the next one's beginning.
        return sorted({*_rows(starts, at // 4), *_rows(starts, at // 4 - 1)})

    memory = column.buffers()
    if memory[0]:
        yield memory[0], lambda at: sorted({row for bit in range(8) for row in _rows(starts, at * 8 + bit)})
    kind = column.type
    if pa.types.is_list(kind):
        yield memory[1], of_ends
        yield from _buffers(column.values, column.offsets.to_numpy()[starts])
    elif pa.types.is_struct(kind):
        for child in range(kind.num_fields):
            yield from _buffers(column.field(child), starts)
    elif pa.types.is_string(kind):
        yield memory[1], of_ends
        if memory[2]:
            ends = np.frombuffer(memory[1], np.int32)[starts]
            yield memory[2], lambda at: _rows(ends, at)
    elif memory[1]:
        yield memory[1], of_values(kind.bit_width // 8)


def _rows(starts: np.ndarray, value: int) -> list[int]:
    """The row that a value belongs to, in a list; an empty list if none does."""
    row = int(np.searchsorted(starts, value, "right")) - 1
    return [row] if 0 <= row < len(starts) - 1 else []
