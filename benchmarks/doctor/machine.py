"""Cores, memory and limits of this machine, as far as training meets them."""

from __future__ import annotations

import os
import resource
from pathlib import Path

from benchmarks.doctor.finding import Finding
from pipelines import decode_threads
from pipelines.in_flight import free_memory

CGROUP_CPUS = Path("/sys/fs/cgroup/cpu.max")
HUGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")
_SHARED_MEMORY = Path("/dev/shm")
_CORES_FOR_A_GPU = 4
_LITTLE_MEMORY = 4 << 30
_LITTLE_SHARED_MEMORY = 512 << 20
_FEW_FILES = 512


def machine(gpus: int) -> list[Finding]:
    """What there is, for training on so many GPUs (0: the CPU)."""
    return [
        cores(gpus, CGROUP_CPUS),
        memory(),
        shared_memory(gpus),
        locked_memory(gpus),
        open_files(),
        huge_pages(gpus, HUGE_PAGES),
    ]


def cores(gpus: int, limit: Path) -> Finding:
    """The cores that this process may use, and the threads that the loader would take in each training process.

    ``limit`` is the file in which a control group says how much time of them it gives: "max 100000" or "150000 100000".
    """
    usable, processes = len(os.sched_getaffinity(0)), max(1, gpus)
    threads = decode_threads(processes)
    said = f"{usable} of {os.cpu_count()}; the loader takes {threads} threads" + (" for each GPU" if gpus > 1 else "")
    try:
        quota, period = limit.read_text().split()
        given = usable if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError):
        given = usable
    if given < usable:
        advice = "threads beyond that stand in each other's way: give the container as many cores as it sees"
        return Finding("cores", "slow", f"{said}; but the control group gives the time of {given:g}", advice)
    if gpus and usable < _CORES_FOR_A_GPU * gpus:
        advice = f"a GPU may wait for batches: ask for {_CORES_FOR_A_GPU} cores or more for each"
        return Finding("cores", "slow", said, advice)
    return Finding("cores", "ok", said)


def memory() -> Finding:
    """Memory that this process may still take."""
    free = free_memory()
    said = f"{free / 1e9:.1f} GB free"
    if free < _LITTLE_MEMORY:
        return Finding("memory", "slow", said, "the loader keeps fewer batches ready: free some, or lower the batch")
    return Finding("memory", "ok", said)


def shared_memory(gpus: int) -> Finding:
    """/dev/shm, by which NCCL passes on what several GPUs exchange. The loader takes none: it has no workers."""
    try:
        about = os.statvfs(_SHARED_MEMORY)
    except OSError:
        free = 0
    else:
        free = about.f_bavail * about.f_frsize
    said = f"{free / 1e9:.1f} GB free in {_SHARED_MEMORY}"
    if gpus > 1 and free < _LITTLE_SHARED_MEMORY:
        return Finding("shared memory", "slow", said, "NCCL may fail: give the container more (docker: --shm-size=1g)")
    return Finding("shared memory", "ok", said)


def locked_memory(gpus: int) -> Finding:
    """What a process may lock in memory; network cards that write to it themselves need that."""
    soft, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    if soft == resource.RLIM_INFINITY:
        return Finding("locked memory", "ok", "unlimited")
    said = f"{soft / 1e6:,.0f} MB at most"
    if gpus > 1:
        advice = (
            "on one machine that does; NCCL over InfiniBand wants ulimit -l unlimited (docker: --ulimit memlock=-1)"
        )
        return Finding("locked memory", "slow", said, advice)
    return Finding("locked memory", "ok", said)


def open_files() -> Finding:
    """How many files a process may hold open; the loader holds 256 shards of each split."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < _FEW_FILES:
        return Finding("open files", "slow", f"{soft} at most", "large datasets fail: ulimit -n 1024 or more")
    return Finding("open files", "ok", f"{soft:,} at most")


def huge_pages(gpus: int, setting: Path) -> Finding:
    """Whether the kernel gives large pages to who asks, as ``v4d`` does on a CPU."""
    try:
        chosen = setting.read_text().partition("[")[2].partition("]")[0]
    except OSError:
        return Finding("huge pages", "ok", "the kernel does not tell")
    if chosen == "never" and not gpus:
        advice = f"the first layers take twice as long on a CPU: echo madvise > {setting}, as root"
        return Finding("huge pages", "slow", "never", advice)
    return Finding("huge pages", "ok", chosen or "the kernel does not tell")
