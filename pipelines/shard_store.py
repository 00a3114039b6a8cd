"""Where the bytes of shards come from."""

from __future__ import annotations

import mmap
import os
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np

from preprocess.errors import DataError
from preprocess.index import shard_name

# A map holds a file descriptor, of which a process may commonly have 1024; to map a shard again costs microseconds.
_SHARDS_HELD_OPEN = 256


class ShardStore(Protocol):
    """The shards of one split. What implements it is called from several threads at once."""

    def expect(self, shard: int, offset: int, size: int) -> None:
        """Begin to fetch what will be read next, and do not wait for it.

        Raises DataError, naming the shard, if it cannot be read at all.
        """
        ...

    def read(self, shard: int, offset: int, size: int) -> np.ndarray:
        """``size`` bytes of a shard from ``offset`` on, (size,) uint8, fewer where the shard ends. It is not written.

        Raises DataError, naming the shard, if it cannot be read at all.
        """
        ...

    def name(self, shard: int) -> str:
        """What a message calls a shard: a path or an address."""
        ...


class _Map(NamedTuple):
    """A shard's map, and the same as an array; no map where the shard is empty."""

    pages: mmap.mmap | None
    bytes: np.ndarray


class MappedShards:
    """The shards in a folder, mapped into memory: what is not used is not read.

    (If it is announced. Else the kernel reads ahead of each packet, and so most of every video.)
    """

    def __init__(self, split_root: Path) -> None:
        self._root = split_root
        self._map = lru_cache(maxsize=_SHARDS_HELD_OPEN)(self._open)

    def expect(self, shard: int, offset: int, size: int) -> None:
        """See ShardStore."""
        pages, content = self._map(shard)
        first = offset - offset % mmap.PAGESIZE
        if pages is not None and first < len(content):
            pages.madvise(mmap.MADV_WILLNEED, first, offset + size - first)

    def read(self, shard: int, offset: int, size: int) -> np.ndarray:
        """See ShardStore; a view of the map."""
        return self._map(shard).bytes[offset : offset + size]

    def name(self, shard: int) -> str:
        """The shard's path."""
        return str(self._root / shard_name(shard))

    def _open(self, shard: int) -> _Map:
        path = self._root / shard_name(shard)
        try:
            with open(path, "rb") as file:
                if not os.fstat(file.fileno()).st_size:
                    # There is no map of nothing. Its videos are damaged, as those of any shard that was cut short.
                    return _Map(None, np.empty(0, np.uint8))
                pages = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
                return _Map(pages, np.frombuffer(pages, np.uint8))
        except (OSError, ValueError) as error:
            raise DataError(f"{path} cannot be read ({error}): restore that file, or preprocess again") from None
