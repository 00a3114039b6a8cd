"""Shards written on a real Ray cluster: the same bytes, also when a worker or the run is killed."""

import os
import signal
import sys
import time
from pathlib import Path

import pytest

from preprocess.errors import DataError, UsageError
from preprocess.ffmpeg import EncodeOptions
from preprocess.index import VERSION
from preprocess.on_ray import write_shards_on_ray
from preprocess.shards import BUILDING, ShardPlan
from tests.preprocess.preprocess_command import PATIENCE, Command, assert_no_file_is_half_written, tree

pytestmark = pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="looks for processes in /proc")
ON_RAY = ("--executor", "ray")


def wait_for_a_shard_in_work(command):
    """The Ray workers that write the first shards."""
    deadline = time.monotonic() + PATIENCE
    while not list(command.data.glob("*/.shard-*.tmp")):
        assert command.process.poll() is None, command.process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.002)
    return command.descendants("ray::_write_one")


def test_killed_worker_costs_its_shard_only(ten_videos, uninterrupted, tmp_path):
    data = tmp_path / "data"
    command = Command(ten_videos, data, *ON_RAY)
    killed = wait_for_a_shard_in_work(command)
    assert killed
    for pid in killed:
        os.kill(pid, signal.SIGKILL)
    assert command.end() == (0, "")
    assert tree(data) == uninterrupted


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 130), (signal.SIGKILL, -signal.SIGKILL)])
def test_ended_run_goes_on_without_ray(ten_videos, uninterrupted, tmp_path, number, code):
    data = tmp_path / "data"
    command = Command(ten_videos, data, *ON_RAY)
    wait_for_a_shard_in_work(command)
    command.process.send_signal(number)
    # Two of Ray's own agents outlive a kill by a minute or so.
    assert command.end("ray::_write_one")[0] == code
    assert command.descendants("ffmpeg") == []
    assert_no_file_is_half_written(data, uninterrupted)
    assert not (data / "dataset.json").exists()
    assert Command(ten_videos, data).end() == (0, "")
    assert tree(data) == uninterrupted


def plan(tmp_path, **other):
    settings = {"v4d": VERSION, "ffmpeg": "0", **other}
    return ShardPlan(tmp_path, tmp_path, "train", 0, 1, (), (), EncodeOptions(), {"options": settings})


@pytest.mark.parametrize("says", ["does not see", "has ffmpeg"])
def test_node_that_is_not_fit(tmp_path, says):
    """A node that sees another folder, or has another ffmpeg, must not write a shard."""
    (tmp_path / BUILDING).mkdir()
    if says == "has ffmpeg":
        (tmp_path / BUILDING / "plan.json").write_text(f'{{"v4d": "{VERSION}", "ffmpeg": "0"}}')
    with pytest.raises(DataError, match=says):
        write_shards_on_ray([plan(tmp_path)], lambda taken: None, None)
    assert not list(tmp_path.rglob("*.tar"))


def test_without_ray(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UsageError, match=r"needs Ray: pip install 'v4d\[ray\]'"):
        write_shards_on_ray([plan(tmp_path)], lambda taken: None, None)


def test_no_cluster_there(ten_videos, tmp_path):
    code, said = Command(ten_videos, tmp_path / "data", *ON_RAY, "--ray-address", "nowhere").end()
    assert (code, said.count("\n")) == (2, 1), said
    assert said.startswith("v4d: no Ray cluster answers at nowhere (")
