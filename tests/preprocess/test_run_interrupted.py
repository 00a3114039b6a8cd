"""However a run ends, the same command then leaves what an uninterrupted one does, byte for byte."""

import hashlib
import os
import resource
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

import pytest

pytestmark = pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="looks for processes in /proc")

PATIENCE = 60


def tree(folder):
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


class Command:
    """``v4d preprocess folder`` in a process of its own, whose children can be told from all others."""

    def __init__(self, videos, data, shard_size=2, workers=2, preexec_fn=None):
        self.data = data
        self.mark = f"V4D_TEST={uuid4()}"
        name, _, value = self.mark.partition("=")
        options = f"--resize 480x480 --shard-size {shard_size} --workers {workers}".split()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "cli", "preprocess", "folder", "--videos", videos, "--out", data, *options],
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

    def end(self):
        """Its exit code and standard error; when it is gone, so are its children."""
        _, said = self.process.communicate(timeout=PATIENCE)
        deadline = time.monotonic() + PATIENCE
        while left := self.descendants(""):
            assert time.monotonic() < deadline, left
            time.sleep(0.02)
        return self.process.returncode, said


@pytest.fixture(scope="module")
def videos(video, tmp_path_factory):
    root = tmp_path_factory.mktemp("videos")
    for name in ("a", "b"):
        (root / name).mkdir()
        for i in range(4):
            (root / name / f"{i}.mp4").write_bytes(video("h264.mp4").read_bytes())
        (root / name / "damaged.mp4").write_bytes(video("h264.mp4").read_bytes()[:-400])
    return root


@pytest.fixture(scope="module")
def uninterrupted(videos, tmp_path_factory):
    data = tmp_path_factory.mktemp("data")
    assert Command(videos, data, workers=1).end() == (0, "")
    return tree(data)


def terminate_main(command):
    command.process.terminate()


def terminate_workers_then_main(command):
    """As a job scheduler may, that tells every process."""
    for pid in command.descendants("spawn_main"):
        os.kill(pid, signal.SIGTERM)
    time.sleep(0.1)
    command.process.terminate()


def interrupt_group(command):
    """As Ctrl-C at a terminal does."""
    os.killpg(command.process.pid, signal.SIGINT)


def kill_worker(command):
    os.kill(command.descendants("spawn_main")[0], signal.SIGKILL)


def kill_ffmpeg(command):
    # One that was about to end anyway does not count: so all of them, until the run gives up.
    while command.process.poll() is None:
        for pid in command.descendants("mjpeg"):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


STOPPED = "v4d: stopped: the same command goes on from there\n"


@pytest.mark.parametrize(
    ("end", "code", "message"),
    [
        (interrupt_group, 130, STOPPED),
        (terminate_main, 130, STOPPED),
        (terminate_workers_then_main, 130, STOPPED),
        (kill_worker, 1, "v4d: a worker process was killed (out of memory?): run the same command again, with fewer"),
        (kill_ffmpeg, 1, "v4d: ffmpeg was killed while it read"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_same_command_goes_on(videos, uninterrupted, tmp_path, end, code, message):
    data = tmp_path / "data"
    command = Command(videos, data)
    command.wait_for_shards(1)
    end(command)
    ended, said = command.end()
    assert ended == code, said
    assert said.startswith(message)
    assert said.count("\n") == 1
    assert_no_file_is_half_written(data, uninterrupted)
    assert not (data / "dataset.json").exists()

    assert Command(videos, data, workers=1).end() == (0, "")
    assert tree(data) == uninterrupted


def test_stop_does_not_wait_for_the_shard(videos, tmp_path):
    command = Command(videos, tmp_path / "data", shard_size=100)
    train = tmp_path / "data" / "train"
    while not list(train.glob(".shard-*.tmp")):
        assert command.process.poll() is None
    command.process.terminate()
    assert command.end() == (130, STOPPED)
    assert list(train.iterdir()) == []


def test_stop_while_workers_start(videos, tmp_path):
    command = Command(videos, tmp_path / "data")
    while len(command.descendants("spawn_main")) < 2:
        assert command.process.poll() is None
    time.sleep(0.2)
    interrupt_group(command)
    assert command.end() == (130, STOPPED)


def assert_no_file_is_half_written(data, whole):
    for name, digest in tree(data).items():
        if not name.startswith(".building/") and not name.endswith(".tmp"):
            assert whole[name] == digest


def test_killed_again_and_again(videos, uninterrupted, tmp_path):
    data = tmp_path / "data"
    for shards in (1, 2):
        command = Command(videos, data)
        command.wait_for_shards(shards)
        command.process.kill()
        code, said = command.end()
        assert code == -signal.SIGKILL
        assert "Traceback" not in said
        assert_no_file_is_half_written(data, uninterrupted)
    assert Command(videos, data, workers=1).end() == (0, "")
    assert tree(data) == uninterrupted


@pytest.fixture
def small_disk(tmp_path):
    """A folder on a disk of 1 MB, what its errors say, what holds a process to it, and a function that enlarges it.

    Without leave to mount one, a limit on the size of a file does for it.
    """

    def mount(*options):
        return subprocess.run(["mount", "-t", "tmpfs", *options, "tmpfs", tmp_path], capture_output=True).returncode

    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, resource.RLIM_INFINITY))

    if os.geteuid() or mount("-o", "size=1m"):
        yield tmp_path, "File too large", limit, lambda: None
    else:
        yield tmp_path, "No space left on device", None, lambda: mount("-o", "remount,size=64m")
        subprocess.run(["umount", tmp_path], check=True)


def test_full_disk(videos, uninterrupted, small_disk):
    disk, error, limit, enlarge = small_disk
    data = disk / "data"
    said = f"v4d: {error} while writing {data}: mend that, then run the same command again\n"
    assert Command(videos, data, preexec_fn=limit).end() == (1, said)
    assert_no_file_is_half_written(data, uninterrupted)
    assert not list(disk.rglob("*.tmp"))
    enlarge()
    assert Command(videos, data, workers=1).end() == (0, "")
    assert tree(data) == uninterrupted


def test_two_runs_at_once(videos, uninterrupted, tmp_path):
    first = Command(videos, tmp_path / "data")
    first.wait_for_shards(1)
    first.process.send_signal(signal.SIGSTOP)
    code, said = Command(videos, tmp_path / "data").end()
    assert (code, said.count("\n")) == (1, 1)
    assert "is being written by another v4d preprocess" in said
    first.process.send_signal(signal.SIGCONT)
    assert first.end() == (0, "")
    assert tree(tmp_path / "data") == uninterrupted
