"""Damages a file, and says whose byte it was."""

import os
import tarfile


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
