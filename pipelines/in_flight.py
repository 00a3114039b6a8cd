"""How many batches are on their way at once, and the memory that they take."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

_MOST_AHEAD = 2
_SHARE_OF_FREE_MEMORY = 1 / 8
# Handed out and not yet read by the GPU, which runs behind the host; one more is being cut.
_MOST_IN_USE_ON_A_GPU, _IN_USE_ON_A_CPU = 5, 3
_LEAST_IN_USE = 2
_CGROUP = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class InFlight:
    """Batches of a loader between its graph and its user: ``ahead`` in the graph, ``in_use`` behind it.

    A batch takes ``decoded`` bytes as whole pictures and ``crops`` bytes when it is cut; ``kept`` bytes of these for as
    long as it is in use.
    """

    ahead: int
    in_use: int
    decoded: int
    crops: int
    kept: int

    @property
    def bytes(self) -> int:
        """What all of them take at most, on the loader's device."""
        return (self.ahead + 1) * (self.decoded + self.crops) + self.in_use * self.kept


def plan_in_flight(
    pictures: int, size: tuple[int, int], crops: int, crop: int, device: torch.device, *, cut_on_gpu: bool
) -> InFlight:
    """Decide for batches of so many pictures of ``size`` (width, height), each cut into ``crops`` squares.

    Up to 2 batches lie ahead and up to 5 behind, fewer where each of these would take more than an eighth of the memory
    that is free now. ``cut_on_gpu`` says that whole pictures lie on the GPU until it has cut them.
    """
    decoded, cut = pictures * size[0] * size[1] * 3, pictures * crops * crop * crop * 3
    kept = cut + decoded if cut_on_gpu else cut
    on_gpu = device.type == "cuda"
    share = int((torch.cuda.mem_get_info(device)[0] if on_gpu else free_memory()) * _SHARE_OF_FREE_MEMORY)
    ahead = max(1, min(_MOST_AHEAD, share // (decoded + cut)))
    in_use = max(_LEAST_IN_USE, min(_MOST_IN_USE_ON_A_GPU, share // kept)) if on_gpu else _IN_USE_ON_A_CPU
    return InFlight(ahead, in_use, decoded, cut, kept)


def free_memory() -> int:
    """Bytes that this process may still take: what the machine has available, or its control group if that is less."""
    lines = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
    # The cache of files counts as available: it is given up where memory is wanted.
    available = int(lines["MemAvailable"].split()[0]) * 1024
    try:
        limit = int((_CGROUP / "memory.max").read_text())
        used = int((_CGROUP / "memory.current").read_text())
        about = dict(line.split() for line in (_CGROUP / "memory.stat").read_text().splitlines())
        return max(0, min(available, limit - used + int(about["inactive_file"])))
    except (OSError, ValueError, KeyError):
        # There is no limit, or none of this kind.
        return available
