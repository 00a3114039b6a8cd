"""The user's own measurements, as the commands of this project print them: they stand in for the constants."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import fields
from datetime import date
from pathlib import Path
from typing import Any

from benchmarks.comparison import CPU
from benchmarks.planning.constants import Figure
from benchmarks.planning.plan import Asked, Replaced
from preprocess.errors import DataError, UsageError


def read_measured(paths: Sequence[Path], asked: Asked) -> Replaced:
    """What ``v4d bench data --json`` and ``v4d preprocess ... --dry-run --json`` say; of two, the later file counts.

    Raises DataError for a file that is neither, UsageError for one of another codec, sampling or batch than is planned.
    """
    found: dict[str, Figure] = {}
    for path in paths:
        document = _document(path)
        try:
            found |= _of_bench(document, path, asked) if "routes" in document else _of_dry_run(document, path, asked)
        except (KeyError, TypeError, ValueError, IndexError):
            raise DataError(
                f"{path} is neither of v4d bench data --json nor of v4d preprocess --dry-run --json"
            ) from None
    return Replaced(**{field.name: found.get(field.name) for field in fields(Replaced)})


def _document(path: Path) -> dict[str, Any]:
    try:
        # Preprocessing prints a line for each event; the estimate is the last.
        documents = path.read_text(encoding="utf-8")
        try:
            found = json.loads(documents)
        except ValueError:
            found = json.loads(documents.strip().splitlines()[-1])
    except FileNotFoundError:
        raise UsageError(f"--measured: {path} does not exist") from None
    except (ValueError, IndexError):
        raise DataError(f"{path} is no JSON") from None
    if not isinstance(found, dict):
        raise DataError(f"{path} holds no figures")
    return found


def _of_bench(document: dict[str, Any], path: Path, asked: Asked) -> dict[str, Figure]:
    data, share = asked.recipe.data, asked.share
    _same(path, "the codec", document["codec"], asked.codec)
    if document["device"] == CPU:
        raise UsageError(f"{path}: it was measured on {CPU}, and the plan is of GPUs: run v4d bench data on one")
    _same(path, "units x frames", f"{document['units']}x{document['frames']}", f"{data.units}x{data.frames}")
    _same(path, "the stride", document["stride"], data.stride)
    (ours,) = (route for route in document["routes"] if route["ours"] and not route["problem"])
    machine = f"{document['device']}, {document['cores']} CPU cores"
    found = {
        "loader": _figure(ours["videos_per_s"], "videos/s", path, machine),
        "loader_cpu": _figure(ours["cpu_ms_per_video"], "CPU ms/video", path, machine),
    }
    if beside := document["with_model"]:
        _same(path, "the recipe", beside["recipe"], asked.recipe.name)
        _same(path, "the batch of a GPU", beside["batch"], share)
        found["step"] = _figure(beside["loaded"], "videos/s", path, machine)
    return found


def _of_dry_run(document: dict[str, Any], path: Path, asked: Asked) -> dict[str, Figure]:
    videos = sum(document["videos"].values())
    _same(path, "the codec", document["codec"], asked.codec)
    if not document["tried"] or not videos:
        raise DataError(f"{path} tried no video")
    return {
        "size": _figure(document["bytes"] / videos, "bytes a video", path, "the machine of the dry run"),
        "core_seconds": _figure(
            document["cpu_seconds"] / document["tried"], "CPU s/video", path, "the machine of the dry run"
        ),
    }


def _figure(value: float, unit: str, path: Path, machine: str) -> Figure:
    if not value > 0:
        raise ValueError
    day = date.fromtimestamp(path.stat().st_mtime).isoformat()
    return Figure(float(value), unit, "measured", str(path), machine, day)


def _same(path: Path, what: str, there: object, planned: object) -> None:
    if there != planned:
        raise UsageError(f"{path}: {what} is {there} there, {planned} in the plan: measure what is planned")
