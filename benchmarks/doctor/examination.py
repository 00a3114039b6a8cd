"""All checks, one after the other."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from benchmarks.doctor.finding import Finding
from benchmarks.doctor.versions import versions
from preprocess.errors import DataError, UsageError
from preprocess.index import read_dataset
from preprocess.work_folder import choose_dataset


def examine(data: Path | None, folder: Path, seconds: float, environment: Mapping[str, str]) -> list[Finding]:
    """Everything there is to find.

    What has to be made goes into ``folder``; ``data`` is read and loaded for ``seconds`` each. Without torch or DALI
    nothing else is looked at.
    """
    found = versions()
    if any(one.fails for one in found):
        return found
    # Behind them, for they load torch and DALI.
    from benchmarks.doctor.codecs import codecs
    from benchmarks.doctor.dataset import loading, on_this_machine
    from benchmarks.doctor.gpus import gpus
    from benchmarks.doctor.machine import machine
    from v4d.launch import choose_gpus

    count = choose_gpus(None)
    device = "cuda" if count else "cpu"
    found += [*gpus(environment), *machine(count)]
    codec, of_data = "mjpeg", []
    try:
        dataset = read_dataset(data or choose_dataset())
        codec, of_data = dataset.codec, [on_this_machine(dataset, device)]
        if not of_data[0].fails:
            of_data += loading(dataset, device, count, seconds)
    except UsageError:
        of_data = [Finding("dataset", "ok", "none looked at: name one, as in v4d doctor shards/NAME")]
    except DataError as error:
        of_data = [Finding("dataset", "missing", str(error), needed=True)]
    devices = ("cpu", "cuda") if count else ("cpu",)
    return [*found, *codecs(folder, devices, (codec, device)), *of_data]
