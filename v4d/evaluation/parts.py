"""An evaluation under way: what is finished of it lies beside its results, so that it goes on after it was killed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from preprocess.durable_files import held, is_held, remove_folder, remove_left_overs
from preprocess.errors import DataError
from v4d.evaluation.scores_file import join_scores, read_about, write_scores

_LOCK = "lock"
# It is let go a moment after the process that held it was killed.
_SECONDS_FOR_THE_LOCK = 2
# So many parts of a small split, that many processes find something to do; and so many videos of a large one at most,
# which is what a kill costs.
_PARTS, _MOST_VIDEOS = 64, 256


class Parts:
    """The parts of one evaluation, each a dump of the videos of some batches.

    They are those of the split, whatever the number of processes: part ``n`` holds batches ``n * batches`` on. They lie
    in a folder that is named by all that their bytes depend on.
    """

    def __init__(self, out: Path, made_by: dict[str, Any], videos: int, batch: int) -> None:
        """Parts of ``videos``, ``batch`` at a time. ``made_by`` goes through JSON."""
        digest = hashlib.sha256(json.dumps([made_by, videos, batch], sort_keys=True).encode()).hexdigest()
        self._out, self._folder, self._videos, self._batch = out, out / f"parts-{digest[:16]}", videos, batch
        in_a_part = min(_MOST_VIDEOS, -(-videos // _PARTS))
        self.batches = max(1, in_a_part // batch)
        self.count = -(-videos // (batch * self.batches))

    @contextmanager
    def held(self, anew: bool) -> Iterator[None]:
        """Keep others out, and remove what other evaluations left in ``out`` when they were killed.

        ``anew`` says that they were put together already: if nothing is missing they are removed too. Raises DataError
        if somebody else makes the same ones.
        """
        for folder in self._out.glob("parts-*"):
            if folder != self._folder and not is_held(folder / _LOCK):
                remove_folder(folder)
        self._folder.mkdir(parents=True, exist_ok=True)
        with held(self._folder / _LOCK, f"{self._out} is being written by another v4d eval", _SECONDS_FOR_THE_LOCK):
            remove_left_overs(self._out, below=False)
            remove_left_overs(self._folder)
            if anew and not self.missing():
                for number in range(self.count):
                    self._path(number).unlink()
            yield

    def missing(self) -> list[int]:
        """The parts that are still to be made. Those that lack a video are: it may be restored by now."""
        return [number for number in range(self.count) if not self._is_whole(number)]

    def steps(self, number: int) -> range:
        """The batches of a part."""
        last = -(-self._videos // self._batch)
        return range(number * self.batches, min((number + 1) * self.batches, last))

    def videos(self, number: int) -> int:
        """How many videos a part is of."""
        steps = self.steps(number)
        return min(steps.stop * self._batch, self._videos) - steps.start * self._batch

    def write(
        self, number: int, keys: Sequence[str], labels: Sequence[Sequence[int]], scores: Sequence[np.ndarray]
    ) -> None:
        """Write a part; what it has less than ``videos`` was left out."""
        write_scores(self._path(number), keys, labels, scores, {"videos": len(keys)})

    def left_out(self) -> int:
        """How many videos all of them lack. Raises DataError if one is gone, or holds more videos than it is of."""
        count = 0
        for number in range(self.count):
            lacking = self.videos(number) - self._held_by(number)
            if lacking < 0:
                raise DataError(f"{self._path(number)} holds a video twice: remove it, and give the same command again")
            count += lacking
        return count

    def join(self, path: Path, about: dict[str, Any]) -> None:
        """Write all of them as one dump.

        Raises DataError if a part is gone, or if it does not hold each video once, but for those that were left out.
        """
        expected = self._videos - self.left_out()
        found = join_scores(path, [self._path(number) for number in range(self.count)], about)
        if found != expected:
            raise DataError(
                f"{path} holds {found} videos, and not {expected}: remove it, and give the same command again"
            )

    def remove(self) -> None:
        """Remove them all, if there are any."""
        if self._folder.exists():
            remove_folder(self._folder)

    def _path(self, number: int) -> Path:
        return self._folder / f"part-{number:06d}.arrow"

    def _held_by(self, number: int) -> int:
        return int(read_about(self._path(number))["videos"])

    def _is_whole(self, number: int) -> bool:
        try:
            return self._held_by(number) == self.videos(number)
        except DataError:
            return False
