"""However a run ends, the same command then leaves what an uninterrupted one does, byte for byte."""

import os
import resource
import shutil
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from random import Random

import pyarrow as pa
import pytest

from preprocess.errors import DataError
from preprocess.run import _disk_full_said_plainly
from tests.preprocess.preprocess_command import Command, assert_no_file_is_half_written, tree

pytestmark = pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="looks for processes in /proc")


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
def test_same_command_goes_on(ten_videos, uninterrupted, tmp_path, end, code, message):
    data = tmp_path / "data"
    command = Command(ten_videos, data)
    command.wait_for_shards(1)
    end(command)
    ended, said = command.end()
    assert ended == code, said
    assert said.startswith(message)
    assert said.count("\n") == 1
    assert_no_file_is_half_written(data, uninterrupted)
    assert not (data / "dataset.json").exists()

    assert Command(ten_videos, data, workers=1).end() == (0, "")
    assert tree(data) == uninterrupted


def test_stop_does_not_wait_for_the_shard(ten_videos, tmp_path):
    # A shard that takes many seconds.
    slow = ("--codec", "vp9", "--resize", "960x960")
    command = Command(ten_videos, tmp_path / "data", *slow, shard_size=100)
    train = tmp_path / "data" / "train"
    while not list(train.glob(".shard-*.tmp")):
        assert command.process.poll() is None
    command.process.terminate()
    assert command.end() == (130, STOPPED)
    assert list(train.iterdir()) == []


def test_stop_while_workers_start(ten_videos, tmp_path):
    command = Command(ten_videos, tmp_path / "data")
    while len(command.descendants("spawn_main")) < 2:
        assert command.process.poll() is None
    time.sleep(0.2)
    interrupt_group(command)
    assert command.end() == (130, STOPPED)


def test_forty_kills(ten_videos, uninterrupted, tmp_path):
    """At random moments, of the main process or of all, until a run is left in peace."""
    data, random, kills, completed = tmp_path / "data", Random(0), 0, 0
    while kills < 40:
        command = Command(ten_videos, data)
        time.sleep(random.uniform(0, 1.5))
        if random.random() < 0.5:
            command.process.kill()
        else:
            os.killpg(command.process.pid, signal.SIGKILL)
        code, _ = command.end()
        assert_no_file_is_half_written(data, uninterrupted)
        kills += code == -signal.SIGKILL
        if code == 0:
            assert tree(data) == uninterrupted
            completed += 1
            # Alternately killed while it says that all is done, and from the beginning.
            if completed % 2:
                shutil.rmtree(data)
    assert Command(ten_videos, data, workers=1).end() == (0, "")
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


def test_full_disk(ten_videos, uninterrupted, small_disk):
    disk, error, limit, enlarge = small_disk
    data = disk / "data"
    said = f"v4d: {error} while writing {data}: mend that, then run the same command again\n"
    assert Command(ten_videos, data, preexec_fn=limit).end() == (1, said)
    assert_no_file_is_half_written(data, uninterrupted)
    assert not list(disk.rglob("*.tmp"))
    enlarge()
    assert Command(ten_videos, data, workers=1).end() == (0, "")
    assert tree(data) == uninterrupted


def test_a_disk_that_is_full_for_arrow_is_said_to_be_full_alike(small_disk):
    disk, error, limit, _ = small_disk
    if limit:
        pytest.skip("no disk can be mounted")
    with pytest.raises(DataError, match=f"^{error} while writing {disk}: mend that"):
        with _disk_full_said_plainly(disk), pa.OSFile(str(disk / "index"), "wb") as sink:
            sink.write(bytes(2 << 20))


def test_two_runs_at_once(ten_videos, uninterrupted, tmp_path):
    first = Command(ten_videos, tmp_path / "data")
    first.wait_for_shards(1)
    first.process.send_signal(signal.SIGSTOP)
    code, said = Command(ten_videos, tmp_path / "data").end()
    assert (code, said.count("\n")) == (1, 1)
    assert "is being written by another v4d preprocess" in said
    first.process.send_signal(signal.SIGCONT)
    assert first.end() == (0, "")
    assert tree(tmp_path / "data") == uninterrupted
