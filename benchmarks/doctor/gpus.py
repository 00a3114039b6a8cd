"""The GPUs, as torch sees them."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from benchmarks.doctor.finding import Finding
from benchmarks.doctor.versions import DRIVER
from v4d.launch import QUEUES, WANTED_QUEUES

_OLDEST_WITH_BF16 = (8, 0)
_TAKEN_BY_OTHERS = 0.1


def gpus(environment: Mapping[str, str]) -> list[Finding]:
    """One for each GPU, or why there is none; and the number of hardware queues, if ``environment`` says one."""
    found = [gpu(number) for number in range(torch.cuda.device_count())] or [no_gpu(DRIVER.exists())]
    return [*found, *queues(environment)]


def gpu(number: int) -> Finding:
    """Name, memory and compute capability of one."""
    about, capability = torch.cuda.get_device_properties(number), torch.cuda.get_device_capability(number)
    free, total = torch.cuda.mem_get_info(number)
    of_memory = f"{free / 1e9:.0f} of {total / 1e9:.0f} GB free"
    said = f"{about.name}, {of_memory}, compute capability {'.'.join(map(str, capability))}"
    name = f"GPU {number}"
    if capability < _OLDEST_WITH_BF16:
        return Finding(name, "slow", said, "it has no bf16: train with --set train.precision=fp16")
    if free < (1 - _TAKEN_BY_OTHERS) * total:
        return Finding(name, "slow", said, "others use it: nvidia-smi tells who")
    return Finding(name, "ok", said)


def no_gpu(driver: bool) -> Finding:
    """Why torch sees none, where there is a ``driver`` or not."""
    if not driver:
        return Finding("GPU", "slow", "none", "training runs on the CPU, some hundred times slower: for small networks")
    if torch.version.cuda is None:
        return Finding("GPU", "missing", "this torch is for the CPU only", "install a torch for CUDA")
    advice = "see CUDA_VISIBLE_DEVICES, and whether the driver is new enough for torch's CUDA"
    return Finding("GPU", "missing", f"there is a driver, but torch for CUDA {torch.version.cuda} sees no GPU", advice)


def queues(environment: Mapping[str, str]) -> list[Finding]:
    """Nothing, unless somebody has set the number of queues that ``v4d train`` sets itself."""
    said = environment.get(QUEUES, "")
    if not said or not torch.cuda.device_count():
        return []
    if said.isdecimal() and int(said) >= WANTED_QUEUES:
        return [Finding(QUEUES, "ok", said)]
    advice = f"the decoder's small launches wait for those of the network, 1.3 times slower: unset it ({WANTED_QUEUES})"
    return [Finding(QUEUES, "slow", said, advice)]
