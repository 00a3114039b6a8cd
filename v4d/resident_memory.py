"""The memory of this process, as the kernel and the GPU count it."""

from __future__ import annotations

from pathlib import Path

import torch


def resident() -> dict[str, float]:
    """Resident memory of this process in MB: all of it, anonymous, and pages of files.

    Where CUDA is in use, with what is taken on the GPU, by this process and others.
    """
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    kinds = {"all": "VmRSS", "anonymous": "RssAnon", "files": "RssFile"}
    found = {kind: int(status[name].split()[0]) / 1e3 for kind, name in kinds.items()}
    if torch.cuda.is_initialized():
        free, total = torch.cuda.mem_get_info()
        found["GPU"] = (total - free) / 1e6
    return found
