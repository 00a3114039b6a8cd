"""The tar of a shard: written so that the same videos give the same bytes, and read back.

    __v4d__/shard.json        dataset.json without its counts, and which shard of how many this is
    KEY.mjpeg, KEY.json       for each video its packets and its row of the index
    __v4d__/rejected.jsonl    one line for each video left out

So a dataset can be put together from its tars alone. WebDataset skips members named ``__*__``.
"""

from __future__ import annotations

import hashlib
import json
import tarfile
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import pyarrow as pa

from preprocess.errors import DataError

ABOUT, REJECTED = "__v4d__/shard.json", "__v4d__/rejected.jsonl"
END = bytes(2 * tarfile.BLOCKSIZE)
_BLOCK = 1 << 20


@dataclass(frozen=True)
class ShardPart:
    """What a dataset is put together from: a shard's rows, its rejected videos, its size in bytes and sha256."""

    rows: pa.RecordBatch
    rejected: tuple[dict[str, str], ...]
    size: int
    sha256: str


@dataclass(frozen=True)
class Member:
    """A member of a tar: its name, the first byte of its content, and its length."""

    name: str
    offset: int
    size: int


class TarWriter:
    """Writes members one after the other, and hashes them on the way."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._digest = hashlib.sha256()
        self.size = 0

    @property
    def sha256(self) -> str:
        return self._digest.hexdigest()

    def add(self, name: str, content: bytes) -> None:
        """Write a member of which the content is at hand."""
        self._write(header_of(name, len(content)) + content + padding_of(len(content)))

    def copy(self, name: str, size: int, source: IO[bytes]) -> tuple[int, int]:
        """Write a member of ``size`` bytes from a file. Returns the offset of its content, and the content's CRC-32."""
        self._write(header_of(name, size))
        offset, crc32 = self.size, 0
        while block := source.read(_BLOCK):
            crc32 = zlib.crc32(block, crc32)
            self._write(block)
        self._write(padding_of(size))
        return offset, crc32

    def close(self) -> None:
        """Write the end of the archive."""
        self._write(END)

    def _write(self, content: bytes) -> None:
        self._file.write(content)
        self._digest.update(content)
        self.size += len(content)


def header_of(name: str, size: int) -> bytes:
    """A member's header with nothing in it that differs from run to run."""
    member = tarfile.TarInfo(name)
    member.size, member.mode = size, 0o644
    return member.tobuf(tarfile.PAX_FORMAT)


def padding_of(size: int) -> bytes:
    """What follows a member's content, up to the next block."""
    return bytes(-size % tarfile.BLOCKSIZE)


def members(file: IO[bytes], path: Path) -> Iterator[Member]:
    """The members of a tar, in order. Raises DataError, naming ``path``, where it is none, or breaks off."""
    try:
        with tarfile.open(fileobj=file, mode="r:") as tar:
            for member in tar:
                if not member.isreg():
                    raise DataError(f"{path}: '{member.name}' is no plain file: this shard is none of v4d's")
                yield Member(member.name, member.offset_data, member.size)
    except (tarfile.TarError, ValueError, OverflowError) as error:
        raise DataError(f"{path} is damaged as a tar ({error}): restore that file, or preprocess again") from None


def as_lines(rows: Iterable[dict[str, Any]]) -> bytes:
    """JSON lines."""
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def as_text(content: dict[str, Any]) -> bytes:
    """JSON for people to read too."""
    return (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode()
