"""Memory for pictures on a CPU, used again and again."""

from __future__ import annotations

import weakref

import numpy as np
import torch
from torch import Tensor

# Of what came back: a user who held many batches at once gives the rest of their memory back to the system.
_MOST_FREE = 16


class PictureMemory:
    """Gives out uint8 tensors of one shape, each time memory that nobody holds any more.

    What comes fresh from the system is mapped page by page when it is first written, which costs as much time as half
    of the crops that are written into it.
    """

    def __init__(self, shape: tuple[int, ...]) -> None:
        self._shape = shape
        self._free: list[np.ndarray] = []

    def tensor(self) -> Tensor:
        """A tensor of any content. Its memory is given out again once it and every view of it are gone."""
        array = self._free.pop() if self._free else np.empty(self._shape, np.uint8)
        # The tensor holds this view, as long as anything holds the tensor's memory.
        lent = array.view()
        weakref.finalize(lent, self._take_back, array).atexit = False
        return torch.from_numpy(lent)

    def _take_back(self, array: np.ndarray) -> None:
        if len(self._free) < _MOST_FREE:
            self._free.append(array)
