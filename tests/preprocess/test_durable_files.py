"""Files where a file system cannot do what others can."""

import errno
import fcntl
import os
from pathlib import Path

import pytest

from preprocess.durable_files import fsync, held, is_held
from preprocess.errors import DataError


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a file system that forces no folder to disk")
def test_a_folder_that_cannot_be_forced_to_disk_is_let_be():
    descriptor = os.open("/proc/self", os.O_RDONLY)
    with pytest.raises(OSError, match="Invalid argument"):
        os.fsync(descriptor)
    os.close(descriptor)
    fsync(Path("/proc/self"))
    # A file's content is another matter.
    with pytest.raises(OSError, match="Invalid argument"):
        fsync(Path("/proc/self/status"))


@pytest.mark.parametrize("error", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks(tmp_path, monkeypatch, error):
    """As Lustre mounted without ``flock``. There is none such to be had here."""

    def flock(*_):
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr(fcntl, "flock", flock)
    lock = tmp_path / "lock"
    lock.touch()
    assert not is_held(lock)
    with pytest.raises(DataError, match=f"{lock} cannot be locked .*choose a folder on another file system"):
        with held(lock, "somebody writes"):
            pass
