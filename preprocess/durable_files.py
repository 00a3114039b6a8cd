"""Files that are whole or not there: replaced atomically, forced to disk, locked, and known by their sha256."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import platform
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from preprocess.errors import DataError

# What network file systems say that are mounted without locks.
_NO_LOCKS = {errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP}
# And those that force a folder's entries to disk by themselves, or never.
_NO_FSYNC_OF_FOLDERS = {errno.EINVAL, errno.EBADF, errno.ENOSYS, errno.EOPNOTSUPP}


class replace_atomically:  # noqa: N801 - used as a context manager, reads like a function
    """Context manager: gives a temporary path beside ``path``, fsyncs it and renames it over ``path`` at the end.

    When the block raises, the temporary file is removed and ``path`` is as it was. The block may make a folder of it,
    of files that are on the disk already, if ``path`` is none.
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
            _remove(self.temporary)
            return
        try:
            fsync(self.temporary)
            os.replace(self.temporary, self.path)
        except OSError:
            _remove(self.temporary)
            raise
        fsync(self.path.parent)


def remove_left_overs(folder: Path, *, below: bool = True) -> None:
    """Remove what ``replace_atomically`` left in a folder, and ``below`` it, when its process was killed.

    Nobody may write there.
    """
    for left_over in list((folder.rglob if below else folder.glob)(".*.tmp")):
        _remove(left_over)


def remove_folder(folder: Path) -> None:
    """Remove a folder, which is there whole or not at all, also if the process is killed on the way."""
    doomed = replace_atomically(folder).temporary
    os.replace(folder, doomed)
    _remove(doomed)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


@contextmanager
def held(path: Path, whose: str, patience: float = 0.0) -> Iterator[None]:
    """Hold the lock file ``path`` for the length of the block.

    Raises DataError, with ``whose``, if somebody does and goes on to for ``patience`` seconds; and where the file
    system has no locks.
    """
    until = time.monotonic() + patience
    with open(path, "w") as lock:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= until:
                    raise DataError(f"{whose}: wait for it, or stop it") from None
                time.sleep(0.05)
            except OSError as error:
                if error.errno not in _NO_LOCKS:
                    raise
                raise DataError(
                    f"{path} cannot be locked ({error.strerror}), and so two commands could write to one folder: "
                    "choose a folder on another file system, or have this one mounted with flock"
                ) from None
        yield


def is_held(path: Path) -> bool:
    """Whether somebody holds the lock file ``path``, on this machine or another that sees it.

    Where the file system has no locks, nobody does.
    """
    try:
        with open(path) as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
    return False


def fsync(path: Path) -> None:
    """Force a file, or a folder's entries where the file system has a way to, to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if not (error.errno in _NO_FSYNC_OF_FOLDERS and path.is_dir()):
            raise
    finally:
        os.close(descriptor)


def sha256_of(path: Path) -> str:
    """sha256 of a file, as 64 hexadecimal digits."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
