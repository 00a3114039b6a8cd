"""``v4d preprocess folder`` in a process of its own, to be interrupted, killed, and looked at afterwards."""

import hashlib
import os
import subprocess
import sys
import time
from pathlib import Path
from uuid import uuid4

PATIENCE = 60


def tree(folder):
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


class Command:
    """``v4d preprocess folder`` in a process of its own, whose children can be told from all others."""

    def __init__(self, videos, data, *more, shard_size=2, workers=2, preexec_fn=None):
        self.data = data
        self.mark = f"V4D_TEST={uuid4()}"
        name, _, value = self.mark.partition("=")
        options = f"--resize 480x480 --shard-size {shard_size} --workers {workers}".split()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "cli", "preprocess", "folder", "--videos", videos, "--out", data, *options, *more],
            env={**os.environ, name: value},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            preexec_fn=preexec_fn,
        )

    def descendants(self, kind):
        """Process ids of its workers, or of their ffmpegs, or of all."""
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                environment, line = (folder / "environ").read_bytes(), (folder / "cmdline").read_bytes()
            except OSError:
                continue
            if self.mark.encode() in environment.split(b"\0") and kind.encode() in line:
                found.append(int(folder.name))
        return [pid for pid in found if pid != self.process.pid]

    def wait_for_shards(self, count):
        deadline = time.monotonic() + PATIENCE
        while len(list(self.data.glob(".building/*/shard-*.arrow"))) < count:
            assert self.process.poll() is None, self.process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.005)

    def end(self, kind=""):
        """Its exit code and standard error; when it is gone, so are its children, or those of a kind."""
        _, said = self.process.communicate(timeout=PATIENCE)
        deadline = time.monotonic() + PATIENCE
        while left := self.descendants(kind):
            assert time.monotonic() < deadline, left
            time.sleep(0.02)
        return self.process.returncode, said


def assert_no_file_is_half_written(data, whole):
    """What lies under a final name is as an uninterrupted run leaves it."""
    for name, digest in tree(data).items():
        if not name.startswith(".building/") and not name.endswith(".tmp"):
            assert whole[name] == digest
