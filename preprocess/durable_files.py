"""Files that are whole or not there: replaced atomically, forced to disk, locked, and known by their sha256."""

from __future__ import annotations

import fcntl
import hashlib
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from preprocess.errors import DataError


class replace_atomically:  # noqa: N801 - used as a context manager, reads like a function
    """Context manager: gives a temporary path beside ``path``, fsyncs it and renames it over ``path`` at the end.

    When the block raises, the temporary file is removed and ``path`` is as it was.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        # Several machines may write to one folder.
        self.temporary = path.with_name(f".{path.name}.{platform.node()}-{os.getpid()}.tmp")

    def __enter__(self) -> Path:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        return self.temporary

    def __exit__(self, kind: type | None, *_: object) -> None:
        if kind is not None:
            self.temporary.unlink(missing_ok=True)
            return
        try:
            fsync(self.temporary)
            os.replace(self.temporary, self.path)
        except OSError:
            self.temporary.unlink(missing_ok=True)
            raise
        fsync(self.path.parent)


def remove_left_overs(folder: Path) -> None:
    """Remove what ``replace_atomically`` left below a folder when its process was killed. Nobody may write there."""
    for left_over in folder.rglob(".*.tmp"):
        left_over.unlink()


@contextmanager
def held(path: Path, whose: str) -> Iterator[None]:
    """Hold the lock file ``path`` for the length of the block. Raises DataError, with ``whose``, if somebody does."""
    with open(path, "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DataError(f"{whose}: wait for it, or stop it") from None
        yield


def fsync(path: Path) -> None:
    """Force a file, or a folder's entries, to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256_of(path: Path) -> str:
    """sha256 of a file, as 64 hexadecimal digits."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
