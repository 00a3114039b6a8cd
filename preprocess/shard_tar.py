"""The tar of a shard: written so that the same videos give the same bytes, and read back.

    __v4d__/shard.json        dataset.json without its counts, and which shard of how many this is
    KEY.mjpeg, KEY.json       for each video its packets and its row of the index
    __v4d__/rejected.jsonl    one line for each video left out

So a dataset can be put together from its tars alone. WebDataset skips members named ``__*__``.
"""

from __future__ import annotations

import hashlib
import json
import os
import tarfile
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import IO, Any

import pyarrow as pa

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


class TarReader:
    """Reads what ``TarWriter`` wrote, each byte once and in order, and hashes it on the way."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._digest = hashlib.sha256()
        self._size = file.seek(0, os.SEEK_END)
        file.seek(0)
        self.at = 0

    @property
    def sha256(self) -> str:
        return self._digest.hexdigest()

    def take(self, count: int) -> bytes:
        """The next ``count`` bytes. Raises EOFError where there are fewer."""
        read = self._file.read(min(count, self._size - self.at))
        self._digest.update(read)
        self.at += len(read)
        if len(read) < count:
            raise EOFError(self.at)
        return read

    def member(self) -> tuple[str, int] | None:
        """The name and size of the member that begins here, None at the end of the archive.

        Raises ValueError where there is no header, or one that ``TarWriter`` would not have written so.
        """
        raw = self.take(tarfile.BLOCKSIZE)
        if not any(raw):
            return None
        try:
            records: dict[bytes, bytes] = {}
            if raw[156:157] == tarfile.XHDTYPE:
                # A header before the header, for what does not fit in there.
                size = min(_header(raw).size, _BLOCK)
                raw += self.take(size + len(padding_of(size)) + tarfile.BLOCKSIZE)
                records = _records(raw[tarfile.BLOCKSIZE :][:size])
            member = _header(raw[-tarfile.BLOCKSIZE :])
            name = records[b"path"].decode() if b"path" in records else member.name
            size = int(records.get(b"size", member.size))
            if header_of(name, size) == raw:
                return name, size
        except (tarfile.TarError, ValueError, OverflowError):
            pass
        raise ValueError("no header that v4d writes")

    def skip(self) -> int:
        """Read on to the end of the file. Returns how many bytes there were."""
        before = self.at
        while block := self._file.read(_BLOCK):
            self._digest.update(block)
            self.at += len(block)
        return self.at - before


def _header(block: bytes) -> tarfile.TarInfo:
    return tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")


def _records(extended: bytes) -> dict[bytes, bytes]:
    """The records of an extended header, "LENGTH NAME=VALUE" and a line break each."""
    records = {}
    while extended:
        length = int(extended.partition(b" ")[0])
        name, _, value = extended[:length].partition(b" ")[2].removesuffix(b"\n").partition(b"=")
        records[name], extended = value, extended[max(length, 1) :]
    return records


def as_lines(rows: Iterable[dict[str, Any]]) -> bytes:
    """JSON lines."""
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def as_text(content: dict[str, Any]) -> bytes:
    """JSON for people to read too."""
    return (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode()
