"""Memory for pictures on a CPU, used again and again."""

from __future__ import annotations

import sys

import numpy as np
import torch
from torch import Tensor

# Those of the list, of the loop, and of getrefcount's own argument.
_REFERENCES_OF_OURS = 3


class PictureMemory:
    """Gives out uint8 tensors of one shape, each time memory that nobody holds any more.

    What comes fresh from the system is mapped page by page when it is first written, which costs as much time as half
    of the crops that are written into it.
    """

    def __init__(self, shape: tuple[int, ...]) -> None:
        self._shape = shape
        self._arrays: list[np.ndarray] = []

    def tensor(self) -> Tensor:
        """A tensor of any content. It is given out again once it and every view of it are gone."""
        for array in self._arrays:
            # A tensor holds a reference to the array that it was made of, as long as anything holds its memory.
            if sys.getrefcount(array) == _REFERENCES_OF_OURS:
                return torch.from_numpy(array)
        self._arrays.append(np.empty(self._shape, np.uint8))
        return torch.from_numpy(self._arrays[-1])
