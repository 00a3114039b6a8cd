"""Checkpoints written beside training: a step waits for the copy to the CPU alone, and a full disk ends no run."""

from __future__ import annotations

import logging
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType

from v4d.checkpoint import Checkpoint, checkpoints_in, remove_checkpoints, save_checkpoint

_LOG = logging.getLogger(__name__)


class CheckpointWriter:
    """Writes the checkpoints of a run in a thread, one at a time, and keeps the last, the best and every so many."""

    def __init__(self, run: Path, kept_every: int) -> None:
        """``kept_every`` is in steps; 0 keeps none but the last and the best."""
        self._run, self._kept_every = run, kept_every
        self._thread = ThreadPoolExecutor(1, "checkpoint")
        self._under_way: Future[OSError | None] | None = None

    def __enter__(self) -> CheckpointWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._thread.shutdown()

    def write(self, checkpoint: Checkpoint) -> None:
        """Copy ``checkpoint`` and begin to write it."""
        self.wait()
        self._under_way = self._thread.submit(self._write, checkpoint.on_cpu())

    def wait(self) -> OSError | None:
        """Wait until the last checkpoint is on the disk. Returns why it is not, if the disk did not take it."""
        return self._under_way.result() if self._under_way else None

    def _write(self, checkpoint: Checkpoint) -> OSError | None:
        try:
            save_checkpoint(self._run, checkpoint)
        except OSError as error:
            last = max(checkpoints_in(self._run), default=0)
            _LOG.warning(
                "%s: NO CHECKPOINT of step %d: %s. Training goes on; what is saved ends at step %d: mend that soon",
                self._run,
                checkpoint.step,
                error.strerror or error,
                last,
            )
            return error
        self.tidy()
        return None

    def tidy(self) -> None:
        """Remove the checkpoints that are not to be kept. What cannot be removed is said, and stays."""
        try:
            remove_checkpoints(self._run, self._kept_every)
        except OSError as error:
            _LOG.warning("%s: an old checkpoint stays: %s", self._run, error.strerror or error)
