"""How a run is asked to stop, and how its processes agree on the step."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event

import torch
import torch.distributed as dist
from torch import Tensor

from preprocess.errors import stop_signals
from v4d.launch import STOP_SIGNALS, Place


class AgreedStop:
    """Whether a signal asked any of the ranks to stop, with one answer for all of them.

    Of several ranks the answer is that of the call before: nobody waits for the others at every step.
    """

    def __init__(self, asked: Event, place: Place) -> None:
        """Every rank is to make one; ``asked`` is this rank's own."""
        self._asked = asked
        # Of its own: the flag lies on the CPU, and no step on the GPU has to be over for it.
        self._group = dist.new_group(backend="gloo") if place.ranks > 1 else None
        self._under_way: deque[tuple[dist.Work, Tensor]] = deque()
        # Also whoever has to wait for something else may end that by it.
        self.wait = asked.wait

    def now(self) -> bool:
        """Whether to stop. Every rank is to call it, as often as the others."""
        if self._group is None:
            return self._asked.is_set()
        flag = torch.tensor(int(self._asked.is_set()))
        work = dist.all_reduce(flag, dist.ReduceOp.MAX, group=self._group, async_op=True)
        assert work is not None
        self._under_way.append((work, flag))
        return len(self._under_way) > 1 and self._oldest()

    def _oldest(self) -> bool:
        work, flag = self._under_way.popleft()
        work.wait()
        return bool(flag)

    def settle(self) -> None:
        """Wait for the other ranks' last call."""
        while self._under_way:
            self._oldest()


@contextmanager
def agreed_stop(place: Place) -> Iterator[AgreedStop]:
    """Hear the signals for the length of the block. Every rank is to come here."""
    # Under a launcher one Ctrl-C comes twice: from the terminal and from the launcher.
    with stop_signals(STOP_SIGNALS, second_ends=place.ranks == 1) as asked:
        stop = AgreedStop(asked, place)
        yield stop
        stop.settle()
