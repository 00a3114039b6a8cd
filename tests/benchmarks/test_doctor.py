"""``v4d doctor`` as a person types it, and each check on what it looks at. What needs a GPU runs where there is one."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

import cli
from benchmarks.doctor.codecs import codecs, tried
from benchmarks.doctor.dataset import DiskSpeed, disk_finding, disk_speed, loader_finding, on_this_machine
from benchmarks.doctor.gpus import gpu, gpus, no_gpu
from benchmarks.doctor.machine import cores, huge_pages, machine
from benchmarks.doctor.versions import driver
from pipelines.packets import needed_packets
from pipelines.samples import Sampling, TrainSamples
from preprocess.index import read_dataset

on_a_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")


def doctor(*arguments, code=0):
    result = CliRunner().invoke(cli.main, ["doctor", "--seconds", "0.01", *map(str, arguments)])
    assert result.exit_code == code, (result.output, result.exception)
    return result.output


def by_name(said):
    return {one["about"]: one for one in said["findings"]}


@pytest.fixture
def damaged(datasets, tmp_path):
    """A dataset whose shards break off."""
    shutil.copytree(datasets["mjpeg"].root, tmp_path / "damaged")
    for shard in (tmp_path / "damaged" / "train").glob("*.tar"):
        shard.write_bytes(shard.read_bytes()[:1500])
    return read_dataset(tmp_path / "damaged")


def test_a_machine_on_which_training_can_run(datasets):
    said = json.loads(doctor(datasets["vp9"].root, "--json"))
    found = by_name(said)
    assert said["can_train"]
    assert found["torch"]["said"].startswith(torch.__version__)
    assert found["mjpeg on the CPU"]["state"] == found["vp9 on the CPU"]["state"] == "ok"
    assert found[f"dataset {datasets['vp9'].root}"]["said"] == "6 videos to train on, 2 classes, vp9"
    assert "videos/s of 4x4 frames" in found["loader"]["said"]
    assert not any(name.endswith("on the GPU") for name in found) or torch.cuda.is_available()
    assert {"cores", "memory", "shared memory", "locked memory", "huge pages", "disk", "ffmpeg"} <= found.keys()


def test_what_fails_is_said_with_what_to_do(damaged):
    said = " ".join(doctor(damaged.root, code=1).split())
    assert "fails: disk:" in said and "is damaged" in said
    assert said.endswith("training cannot run: disk")
    assert "is damaged: v4d verify finds all that is damaged" in said


def test_a_folder_that_is_no_dataset_cannot_be_trained_on(tmp_path):
    assert doctor(tmp_path, code=1).splitlines()[-1] == "training cannot run: dataset"


def test_without_ffmpeg_training_can_run(tmp_path):
    environment = {**os.environ, "V4D_FFMPEG": "no-such-ffmpeg"}
    done = subprocess.run(
        [sys.executable, "-m", "cli", "doctor", "--json"],
        env={**environment, "PYTHONPATH": str(Path(cli.__file__).parent)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    found = by_name(json.loads(done.stdout))
    assert found["ffmpeg"]["state"] == "missing"
    assert "V4D_FFMPEG names no-such-ffmpeg" in found["mjpeg on the CPU"]["said"]
    assert found["dataset"]["said"].startswith("none looked at")


def test_what_does_not_decode_is_said(damaged):
    found = tried(damaged, "mjpeg", "cpu", needed=True)
    assert found.fails
    assert "is damaged" in found.said


def test_what_cannot_be_trained_on(datasets):
    data = datasets["mjpeg"]
    assert on_this_machine(data, "cpu").state == "ok"
    of_h264 = replace(data, codec="h264")
    assert on_this_machine(of_h264, "cpu").fails and not on_this_machine(of_h264, "cuda").fails
    assert on_this_machine(replace(data, classes=("a",)), "cpu").fails
    assert on_this_machine(replace(data, splits={"train": {"videos": 0}}), "cpu").fails


@pytest.mark.parametrize("codec", ["mjpeg", "vp9"])
def test_the_disk_gives_what_training_reads(datasets, codec):
    found = disk_speed(datasets[codec], seconds=1e9)
    samples = TrainSamples(datasets[codec], "train", Sampling(4, 4, 8, 224), 8, 1, 0, 1)
    packets = size = 0
    for sample in map(samples.sample, next(samples.batches(0))):
        needed = needed_packets(sample.row.packet_back, sample.frames.tolist())
        packets, size = packets + len(needed), size + int(sample.row.packet_bytes[needed].sum())
    assert (found.videos, found.packets, found.bytes) == (8, packets, size)
    assert found.seconds > 0


def test_a_slow_disk_is_one_that_was_asked():
    slow = DiskSpeed(videos=10, packets=160, bytes=10**6, from_storage=10**6, seconds=1.0)
    assert disk_finding(slow, loader_rate=20).state == "slow"
    assert disk_finding(slow, loader_rate=5).state == "ok"
    cached = replace(slow, from_storage=0)
    assert disk_finding(cached, loader_rate=20).state == "ok"
    assert "from memory" in cached.line() and "from disk" in slow.line()


def test_a_loader_that_a_gpu_would_wait_for():
    assert loader_finding(300, 8, "cuda").state == "slow"
    assert loader_finding(3000, 8, "cuda").state == loader_finding(3, 8, "cpu").state == "ok"


def test_limits_of_a_control_group_are_seen(tmp_path):
    limit = tmp_path / "cpu.max"
    limit.write_text("max 100000\n")
    assert cores(0, limit).state == "ok"
    limit.write_text("50000 100000\n")
    found = cores(0, limit)
    assert found.state == "slow" and found.said.endswith("gives the time of 0.5")
    assert cores(10_000, tmp_path / "nothing").state == "slow"


def test_huge_pages_matter_on_a_cpu(tmp_path):
    setting = tmp_path / "enabled"
    setting.write_text("always madvise [never]\n")
    assert (huge_pages(0, setting).state, huge_pages(1, setting).state) == ("slow", "ok")
    setting.write_text("always [madvise] never\n")
    assert (huge_pages(0, setting).state, huge_pages(0, setting).said) == ("ok", "madvise")


def test_every_part_of_the_machine_is_looked_at():
    about = [one.about for one in machine(gpus=2)]
    assert about == ["cores", "memory", "shared memory", "locked memory", "open files", "huge pages"]


@pytest.mark.parametrize(
    "line",
    [
        "NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.15  Tue Mar  5 22:23:56 UTC 2024",
        "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  570.124.06  Release Build  (dvs-builder@U22)",
    ],
)
def test_the_driver_tells_its_version(tmp_path, line):
    path = tmp_path / "version"
    path.write_text(f"{line}\nGCC version:  gcc version 11.4.0 (Ubuntu 11.4.0-1ubuntu1~22.04)\n")
    assert driver(path).said in line.split()
    assert driver(path).said.startswith("5")
    assert driver(tmp_path / "nothing").said == "none"


def test_no_gpu_is_slow_and_one_that_torch_does_not_see_is_a_fault():
    assert no_gpu(driver=False).state == "slow"
    assert no_gpu(driver=True).state == "missing"


@on_a_gpu
def test_each_gpu_is_looked_at():
    found = gpu(0)
    assert torch.cuda.get_device_name(0) in found.said
    (queues,) = gpus({"CUDA_DEVICE_MAX_CONNECTIONS": "8"})[torch.cuda.device_count() :]
    assert queues.state == "slow"


@on_a_gpu
def test_codecs_of_a_gpu_are_tried_there(tmp_path):
    found = {one.about: one for one in codecs(tmp_path, ("cuda",), ("mjpeg", "cuda"))}
    assert list(found) == ["mjpeg on the GPU", "vp9 on the GPU", "h264 on the GPU", "JPEG engine"]
    assert found["mjpeg on the GPU"].state == "ok"
