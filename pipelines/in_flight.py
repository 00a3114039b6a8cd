"""How many batches are on their way at once, and the memory that they take."""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch

_MOST_AHEAD = 2
_SHARE_OF_FREE_MEMORY = 1 / 8
# Handed out and not yet read by the GPU, which runs behind the host; one more is being cut.
_IN_USE_ON_A_GPU, _IN_USE_ON_A_CPU = 5, 3


@dataclass(frozen=True)
class InFlight:
    """Batches of a loader between its graph and its user: ``ahead`` in the graph, ``in_use`` behind it.

    A batch takes ``decoded`` bytes as whole pictures and ``crops`` bytes when it is cut.
    """

    ahead: int
    in_use: int
    decoded: int
    crops: int

    @property
    def bytes(self) -> int:
        """What all of them take at most, on the loader's device."""
        return (self.ahead + 1) * (self.decoded + self.crops) + self.in_use * self.crops


def plan_in_flight(pictures: int, size: tuple[int, int], crops: int, crop: int, device: torch.device) -> InFlight:
    """Decide for batches of so many pictures of ``size`` (width, height), each cut into ``crops`` squares.

    Up to 2 batches lie ahead, fewer where they would take more than an eighth of the memory that is free now.
    """
    decoded, cut = pictures * size[0] * size[1] * 3, pictures * crops * crop * crop * 3
    on_gpu = device.type == "cuda"
    free = torch.cuda.mem_get_info(device)[0] if on_gpu else _free_memory()
    ahead = int(free * _SHARE_OF_FREE_MEMORY) // (decoded + cut)
    in_use = _IN_USE_ON_A_GPU if on_gpu else _IN_USE_ON_A_CPU
    return InFlight(max(1, min(_MOST_AHEAD, ahead)), in_use, decoded, cut)


def _free_memory() -> int:
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
