"""Videos that could not be loaded: said once, counted, and too many of them end the run."""

from __future__ import annotations

import logging

from preprocess.errors import DataError

_log = logging.getLogger(__name__)


class BadVideos:
    """What one loader met. ``limit`` is the share of a split's ``videos`` that may be bad in an epoch, 0 to 1."""

    def __init__(self, limit: float, videos: int) -> None:
        """Raises ValueError if ``limit`` is no share."""
        if not 0 <= limit <= 1:
            raise ValueError(f"the share of bad videos is from 0 to 1, not {limit}")
        self.limit, self._videos = limit, videos
        self._keys: set[str] = set()
        self._epoch, self._in_epoch = -1, 0

    @property
    def in_epoch(self) -> int:
        """How many were met since the epoch began, or since the loader did."""
        return self._in_epoch

    def add(self, key: str, epoch: int, why: Exception) -> None:
        """Count a video that could not be loaded. Raises DataError if they are too many now."""
        if epoch != self._epoch:
            self._epoch, self._in_epoch = epoch, 0
        self._in_epoch += 1
        if key not in self._keys:
            self._keys.add(key)
            _log.warning("%s: left out", why)
        self.check(self._in_epoch, why)

    def check(self, in_epoch: int, why: object = "the log names them") -> None:
        """Raise DataError if so many of an epoch, over all ranks, are more than the limit."""
        if in_epoch > self.limit * self._videos:
            raise DataError(
                f"{in_epoch} of {self._videos} videos cannot be loaded, more than --max-bad {self.limit:g} allows; the "
                f"last: {why}: restore the file, preprocess again, or raise --max-bad"
            )
