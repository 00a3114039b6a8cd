"""Which programs are here, and in which version. Loads torch and DALI only to ask them."""

from __future__ import annotations

import importlib
import platform
import re
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

from benchmarks.doctor.finding import Finding
from preprocess.errors import UsageError
from preprocess.ffmpeg import version as ffmpeg_version
from preprocess.index import VERSION

_DALI = "nvidia-dali-cuda120"
DRIVER = Path("/proc/driver/nvidia/version")


def installed() -> dict[str, str]:
    """Versions of torch, DALI and ffmpeg, as they are installed: nothing is loaded, and it takes a moment."""
    return {"torch": _installed("torch"), "DALI": _installed(_DALI), "ffmpeg": ffmpeg().said}


def _installed(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "not installed"


def versions() -> list[Finding]:
    """v4d, Python, torch, CUDA, DALI, the driver and ffmpeg."""
    return [
        Finding("v4d", "ok", VERSION),
        Finding("Python", "ok", platform.python_version()),
        _module("torch", "torch", _torch),
        _module("DALI", "nvidia.dali", lambda dali: str(dali.__version__)),
        driver(DRIVER),
        ffmpeg(),
    ]


def _module(name: str, module: str, said: Callable[..., str]) -> Finding:
    try:
        return Finding(name, "ok", said(importlib.import_module(module)))
    except (ImportError, OSError) as error:
        why = str(error).partition("\n")[0]
        return Finding(name, "missing", f"does not load: {why}", "install v4d with its constraints.txt", needed=True)


def _torch(torch: object) -> str:
    cuda = getattr(getattr(torch, "version", None), "cuda", None)
    return f"{getattr(torch, '__version__', '')}, " + (f"for CUDA {cuda}" if cuda else "for the CPU")


def driver(path: Path) -> Finding:
    """NVIDIA's kernel driver, by what it says in ``path``; a machine without a GPU has none."""
    try:
        found = re.search(r"\s(\d{3,}\.\d+(?:\.\d+)*)\s", path.read_text())
    except OSError:
        return Finding("NVIDIA driver", "ok", "none")
    return Finding("NVIDIA driver", "ok", found[1] if found else "of a version it does not tell")


def ffmpeg() -> Finding:
    """The ffmpeg that preprocessing runs."""
    try:
        return Finding("ffmpeg", "ok", ffmpeg_version())
    except UsageError as error:
        return Finding("ffmpeg", "missing", str(error), "v4d preprocess does not run; training does")
