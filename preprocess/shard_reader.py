"""A shard read back from its tar alone: every byte is looked at, and damage is named with its video."""

from __future__ import annotations

import json
import re
import zlib
from dataclasses import dataclass, fields
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
import pyarrow as pa

from preprocess.errors import DataError
from preprocess.index import (
    CODEC_SUFFIX,
    FORMAT,
    PACKET_COLUMNS,
    VideoRow,
    as_record_batch,
    packet_offsets,
    shard_name,
)
from preprocess.packets import packets_of
from preprocess.shard_tar import (
    ABOUT,
    END,
    REJECTED,
    ShardPart,
    TarReader,
    as_lines,
    as_text,
    padding_of,
)

_BLOCK = 1 << 20
_CRC32 = re.compile(rb'"crc32": ([0-9]+)')
_JSON_FIELDS = {field.name for field in fields(VideoRow)} - set(PACKET_COLUMNS) | {"crc32"}
_SAID_OF_SHARD = ("split", "shard", "shards")


@dataclass(frozen=True)
class Fault:
    """Damage: the file (relative to the dataset), the video's key or "", the first byte (None: the file), and what."""

    file: str
    key: str
    offset: int | None
    what: str

    def __str__(self) -> str:
        where = "" if self.offset is None else f" at byte {self.offset}"
        whose = f" video '{self.key}':" if self.key else ""
        # A key may hold line breaks.
        return "\\n".join(f"{self.file}:{whose} {self.what}{where}".splitlines())


class Damaged(DataError):
    """A shard that is not as it was written."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(fault)
        self.fault = fault

    def __str__(self) -> str:
        return f"{super().__str__()}: restore that file, or preprocess again"


@dataclass(frozen=True)
class ShardFile:
    """Which shard of a dataset: split and number."""

    data: Path
    split: str
    number: int

    @property
    def name(self) -> str:
        return f"{self.split}/{shard_name(self.number)}"

    @property
    def path(self) -> Path:
        return self.data / self.name


@dataclass(frozen=True)
class ShardContent:
    """What a shard's tar says: of the dataset, how many shards its split has, and its part of the index."""

    header: dict[str, Any]
    shards: int
    part: ShardPart


def ends_early(shard: ShardFile, error: EOFError, key: str = "") -> Fault:
    """The fault of a tar that TarReader found to end too early."""
    return Fault(shard.name, key, int(error.args[0]), "the file ends too early,")


def read_about(shard: ShardFile) -> tuple[dict[str, Any], int]:
    """What a shard says of its dataset, and how many shards its split has. Raises Damaged, OSError."""
    with open(shard.path, "rb") as file:
        try:
            return about_of(TarReader(file), shard)
        except EOFError as error:
            raise Damaged(ends_early(shard, error)) from None


def read_shard(shard: ShardFile) -> ShardContent:
    """Read all of a shard. Raises Damaged where it is not as ``write_shard`` wrote it; OSError."""
    with open(shard.path, "rb", buffering=_BLOCK) as file:
        reader = TarReader(file)
        try:
            header, shards = about_of(reader, shard)
            rows: list[VideoRow] = []
            rejected = None
            while rejected is None:
                name, size = _member(reader, shard, rows)
                if name == REJECTED:
                    rejected = rejected_of(reader, shard, size)
                else:
                    rows.append(_video(reader, shard, header["codec"], name, size))
            end_of(reader, shard)
            part = ShardPart(as_record_batch(rows), rejected, reader.at, reader.sha256)
        except EOFError as error:
            raise Damaged(ends_early(shard, error)) from None
    return ShardContent(header, shards, part)


def about_of(reader: TarReader, shard: ShardFile) -> tuple[dict[str, Any], int]:
    """The first member, ``__v4d__/shard.json``. Raises Damaged, EOFError."""
    what = "the shard's description is damaged"
    try:
        found = reader.member()
    except ValueError:
        found = None
    if found is None or found[0] != ABOUT:
        raise Damaged(Fault(shard.name, "", 0, what))
    begins = reader.at
    content = _text(reader, shard, "", found[1], what)
    try:
        about = json.loads(content)
        header = {name: value for name, value in about.items() if name not in _SAID_OF_SHARD}
        said = {name: about[name] for name in _SAID_OF_SHARD}
        if header["format"] != FORMAT:
            what = f"the shard has format {header['format']}, this version of v4d reads {FORMAT}: that is said"
        sound = (
            header["format"] == FORMAT
            and as_text({**header, **said}) == content
            and (said["split"], said["shard"]) == (shard.split, shard.number)
            and header["codec"] in CODEC_SUFFIX
            and isinstance(header["options"], dict)
            and said["shards"] > shard.number
        )
    except (ValueError, KeyError, TypeError, AttributeError):
        sound = False
    if not sound:
        raise Damaged(Fault(shard.name, "", begins, what))
    return header, int(said["shards"])


def rejected_of(reader: TarReader, shard: ShardFile, size: int) -> tuple[dict[str, str], ...]:
    """The content of the last member, of which the header was read. Raises Damaged, EOFError."""
    what = "the shard's list of rejected videos is damaged"
    begins = reader.at
    content = _text(reader, shard, "", size, what)
    try:
        rejected = tuple(json.loads(line) for line in content.decode().split("\n")[:-1])
        sound = as_lines(rejected) == content and all(isinstance(row, dict) and "key" in row for row in rejected)
    except ValueError:
        sound = False
    if not sound:
        raise Damaged(Fault(shard.name, "", begins, what))
    return rejected


def end_of(reader: TarReader, shard: ShardFile) -> None:
    """The two empty blocks, and no byte after them. Raises Damaged, EOFError."""
    begins = reader.at
    if any(reader.take(len(END))):
        raise Damaged(Fault(shard.name, "", begins, "the end of the archive is damaged"))
    if more := reader.skip():
        raise Damaged(Fault(shard.name, "", reader.at - more, f"{more} bytes follow the end of the archive,"))


def _member(reader: TarReader, shard: ShardFile, rows: list[VideoRow]) -> tuple[str, int]:
    begins = reader.at
    try:
        found = reader.member()
    except ValueError:
        found = None
    if found is None:
        after = f"after that of '{rows[-1].key}'" if rows else "of the first video"
        raise Damaged(Fault(shard.name, "", begins, f"the header {after} is damaged"))
    return found


def _video(reader: TarReader, shard: ShardFile, codec: str, name: str, size: int) -> VideoRow:
    """A video's two members, of which the first header was read."""
    key, _, suffix = name.rpartition(".")
    begins = reader.at

    def damaged(what: str, at: int) -> Damaged:
        return Damaged(Fault(shard.name, key, at, what))

    if suffix != CODEC_SUFFIX[codec]:
        raise damaged(f"a member '{name}' is none that v4d writes", begins)
    member = _Content(reader, size)
    sizes, crc32, back = [], [], []
    walked = ""
    try:
        for packet, reference in packets_of(codec, cast(IO[bytes], member)):
            sizes.append(len(packet))
            crc32.append(zlib.crc32(packet))
            back.append(reference)
    except ValueError as error:
        walked = str(error)
    member.drain()
    padding = reader.take(len(padding_of(size)))
    about_begins = reader.at
    try:
        about = reader.member()
    except ValueError:
        about = None
    if about is None or about[0] != f"{key}.json":
        raise damaged(f"the header of its {key.rpartition('/')[2]}.json is damaged", about_begins)
    json_begins = reader.at
    content = _text(reader, shard, key, about[1], "its description is damaged")
    lists = (np.array(sizes, np.int32), np.array(crc32, np.uint32), np.array(back, np.uint8))
    packets: dict[str, Any] = dict(zip(PACKET_COLUMNS, lists, strict=True))
    try:
        values = json.loads(content)
        if set(values) != _JSON_FIELDS:
            raise ValueError
        said = crc32_said(content)
        del values["crc32"]
        values["labels"], values["segments"] = tuple(values["labels"]), tuple(map(tuple, values["segments"]))
        row = VideoRow(**values, **packets)
        as_record_batch([row])
        as_written = row.as_json(member.crc32)
        sound = with_crc32(as_written, said) == content
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, pa.ArrowException):
        sound = False
    if not sound:
        raise damaged("its description is damaged", json_begins)
    if as_written != content:
        raise damaged("its packets or its description are not those that were written (CRC-32)", begins)
    if any(padding):
        raise damaged("the padding after its packets is damaged", begins + size)
    if (row.key, row.shard, row.offset, row.size) != (key, shard.number, begins, size):
        raise damaged("its description is of another video", json_begins)
    last = int(packet_offsets(codec, lists[0])[-1]) + sizes[-1] if sizes else 0
    if walked or len(sizes) != row.frames or last != size:
        raise damaged(f"{walked or f'{len(sizes)} packets do not make {row.frames} frames of {size} bytes'},", begins)
    return row


def _text(reader: TarReader, shard: ShardFile, key: str, size: int, what: str) -> bytes:
    """The content of a member of text, and that its padding is empty. Raises Damaged, EOFError."""
    content = reader.take(size)
    begins = reader.at
    if any(reader.take(len(padding_of(size)))):
        raise Damaged(Fault(shard.name, key, begins, f"{what},"))
    return content


class _Content:
    """A member's content as a file to read from; counts its CRC-32."""

    def __init__(self, reader: TarReader, size: int) -> None:
        self._reader, self._left, self.crc32 = reader, size, 0

    def read(self, count: int) -> bytes:
        block = self._reader.take(min(count, self._left))
        self._left -= len(block)
        self.crc32 = zlib.crc32(block, self.crc32)
        return block

    def drain(self) -> None:
        while self.read(_BLOCK):
            pass


def crc32_said(about: bytes) -> bytes:
    """The digits of the CRC-32 that a KEY.json says; none if it says nothing that is one."""
    found = _CRC32.search(about)
    return found[1] if found else b""


def with_crc32(about: bytes, said: bytes) -> bytes:
    """A KEY.json with another CRC-32."""
    return _CRC32.sub(b'"crc32": ' + said, about, count=1)
