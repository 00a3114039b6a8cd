"""Videos that could not be loaded: said once, counted, and too many of them end the run."""

from __future__ import annotations

import logging

from preprocess.errors import DataError

_log = logging.getLogger(__name__)


class BadVideos:
    """What one loader met. ``limit`` is the share of a split's ``samples`` that may be bad in an epoch, 0 to 1.

    One of several ``ranks`` sees its own samples only: there ``add`` counts, and whoever knows the sum checks it.
    Each sample occurs once in an epoch, on one rank, so the sum over ranks is what a single rank would count.
    """

    def __init__(self, limit: float, samples: int, ranks: int = 1) -> None:
        """Raises ValueError if ``limit`` is no share."""
        if not 0 <= limit <= 1:
            raise ValueError(f"the share of bad videos is from 0 to 1, not {limit}")
        self.limit, self._samples, self._is_alone = limit, samples, ranks == 1
        self._said: set[str] = set()
        self._epoch = -1
        self._in_epoch: set[int] = set()
        self.last = ""

    @property
    def in_epoch(self) -> int:
        """How many samples were bad since the epoch began, or since the loader did. One seen again counts once."""
        return len(self._in_epoch)

    def begin(self, epoch: int) -> None:
        """Say which epoch the samples that come are of."""
        if epoch != self._epoch:
            self.restart()
            self._epoch = epoch

    def restart(self) -> None:
        """Count from nought again. What was said is not said again."""
        self._in_epoch.clear()

    def add(self, number: int, key: str, why: Exception) -> None:
        """Count sample ``number``, of the video ``key``. Raises DataError if they are too many now."""
        self._in_epoch.add(number)
        self.last = str(why)
        if key not in self._said:
            self._said.add(key)
            _log.warning("%s: left out", why)
        if self._is_alone:
            self.check(self.in_epoch, self.last)

    def are_too_many(self, in_epoch: int) -> bool:
        """Whether so many of an epoch, over all ranks, are more than the limit."""
        return bool(in_epoch) and in_epoch / self._samples > self.limit

    def check(self, in_epoch: int, last: str) -> None:
        """Raise DataError if ``are_too_many``; ``last`` is why the last of them could not be loaded."""
        if self.are_too_many(in_epoch):
            raise DataError(
                f"{in_epoch} of {self._samples} videos cannot be loaded, more than --max-bad {self.limit:g} allows; "
                f"the last: {last or 'the log names it'}: restore the file, preprocess again, or raise --max-bad"
            )
