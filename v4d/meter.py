"""Measures training steps as they run, and never makes the host wait for the device."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from v4d.config import Recipe
from v4d.device_peak import device_peak, training_flops
from v4d.launch import Place
from v4d.resident_memory import resident


class Meter:
    """What the steps of this process took since it was last read."""

    def __init__(self, device: torch.device, ranks: int = 1, flops: int = 0, peak: float | None = None) -> None:
        """``flops`` are those of a video, ``peak`` what one of the ``ranks`` devices does in a second at most."""
        self._on_gpu = device.type == "cuda"
        self._flops, self._peak = flops, ranks * peak if peak else None
        self.restart()

    def restart(self) -> None:
        """Begin anew: what was between two reads and is no training does not count."""
        self._began = time.perf_counter()
        self._waited = self._computed = 0.0
        self._steps = 0
        self._events: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Around the wait for a batch."""
        began = time.perf_counter()
        yield
        self._waited += time.perf_counter() - began

    @contextmanager
    def computing(self) -> Iterator[None]:
        """Around a step. On a GPU its own clock counts, from the step's first work there to its last."""
        self._steps += 1
        if self._on_gpu:
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            yield
            end.record()
            self._events.append((start, end))
            return
        began = time.perf_counter()
        yield
        self._computed += time.perf_counter() - began

    def read(self, videos: int) -> Measured:
        """What was measured of the steps since the last read, which trained on so many videos on all ranks.

        Begins anew.
        """
        seconds = max(time.perf_counter() - self._began, 1e-9)
        memory = resident()
        known: dict[str, float] = {
            "videos_per_s": videos / seconds,
            "data_wait": self._waited / seconds,
            "memory_mb": memory.get("GPU", memory["all"]),
        }
        if self._peak:
            known["mfu"] = videos * self._flops / seconds / self._peak
        measured = Measured(known, self._steps, self._computed, self._events)
        self.restart()
        return measured


@dataclass(frozen=True)
class Measured:
    """What a meter read. On a GPU the steps need not be over yet: its own clock is in their ``events``."""

    known: dict[str, float]
    steps: int
    computed: float
    events: list[tuple[torch.cuda.Event, torch.cuda.Event]]

    def figures(self) -> dict[str, float]:
        """``videos_per_s``; ``data_wait``, the share of time that this process waited for batches, 0 to 1.

        ``step_ms``, the mean computing time of a step; ``memory_mb``, on a GPU all that is taken there, by torch, DALI
        and others, else what this process has resident; ``mfu``, where the peak is known, the share of the devices'
        peak that these steps came to. The device must have finished them.
        """
        seconds = sum(start.elapsed_time(end) for start, end in self.events) / 1e3 if self.events else self.computed
        return self.known | {"step_ms": 1e3 * seconds / max(self.steps, 1)}


def training_meter(recipe: Recipe, classes: int, place: Place) -> Meter:
    """The meter of a recipe's steps, with the share of the peak where that of the device is known."""
    peak = device_peak(place.device, recipe.train.precision)
    return Meter(place.device, place.ranks, training_flops(recipe, classes) if peak else 0, peak)
