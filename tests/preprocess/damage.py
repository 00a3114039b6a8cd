"""Damages a file, and says whose byte it was."""

import os
import re
import tarfile
import zlib

from preprocess.shard_tar import TarReader, TarWriter


def flip(path, at, bit=0):
    """Turn one bit of a file."""
    with open(path, "r+b") as file:
        byte = os.pread(file.fileno(), 1, at)[0]
        os.pwrite(file.fileno(), bytes([byte ^ 1 << bit]), at)


def keys_by_byte(tar):
    """For each member of a tar its first byte, header included, the byte after it, and its video's key or ""."""
    with tarfile.open(tar) as file:
        members = file.getmembers()
    ends = [member.offset for member in members[1:]] + [tar.stat().st_size]
    for member, end in zip(members, ends, strict=True):
        yield member.offset, end, "" if member.name.startswith("__v4d__/") else member.name.rpartition(".")[0]


def rewrite(tar, change, signed=False):
    """Write a tar anew with other contents of its members, and headers that are right for them.

    ``signed`` makes the CRC-32 of each video right as well.
    """
    with open(tar, "rb") as file:
        reader = TarReader(file)
        members = []
        while found := reader.member():
            members.append((found[0], reader.take(found[1])))
            reader.take(-found[1] % 512)
    before = b""
    with open(tar, "wb") as file:
        writer = TarWriter(file)
        for name, content in members:
            content = change(name, content)
            if signed and name.endswith(".json") and not name.startswith("__"):
                without = re.sub(rb'"crc32": [0-9]+, ', b"", content)
                crc32 = zlib.crc32(without, zlib.crc32(before))
                content = re.sub(rb'"crc32": [0-9]+', f'"crc32": {crc32}'.encode(), content)
            writer.add(name, content)
            before = content
        writer.close()
