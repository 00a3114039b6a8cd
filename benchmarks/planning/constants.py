"""The measured constants that plans rest on, each with where it is written down, on which machine, and when."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from functools import cache
from pathlib import Path
from typing import Literal

import tomlkit
from pydantic import BaseModel, ConfigDict, Field

Basis = Literal["measured", "given", "assumed", "extrapolated"]


@dataclass(frozen=True)
class Figure:
    """A value that a plan uses, and what it rests on.

    It was "measured" (here or in a file that the user names) or "given" by the user; it is "assumed" to be one that was
    measured of the same network in other batches, or "extrapolated" from one; ``note`` then says from which, and how.
    """

    value: float
    unit: str
    basis: Basis
    source: str
    machine: str = ""
    date: str = ""
    note: str = ""


class Constant(BaseModel):
    """A measured value: ``said`` is what stands below ``heading`` in the page ``source``, word for word."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    value: float = Field(gt=0)
    unit: str
    source: str
    heading: str
    said: str
    machine: str
    date: date

    def figure(self, basis: Basis = "measured", factor: float = 1.0, note: str = "") -> Figure:
        """As a plan uses it: as it is, or for something else and scaled by ``factor``, which ``note`` explains."""
        source = f"{self.source}, {self.heading.partition(' (')[0]}"
        machine = constants().machines[self.machine]
        return Figure(self.value * factor, self.unit, basis, source, machine, self.date.isoformat(), note)


class StepConstant(Constant):
    """Videos/s of one GPU in training a registered network in the setting of its training."""

    gpu: str
    network: str
    batch: int
    precision: str
    compile: bool


class LoaderConstant(Constant):
    """What the loader gives to one GPU, or takes of the CPU, for ``units`` units of ``frames`` frames of a video."""

    gpu: str
    codec: str
    units: int
    frames: int


class PacketConstant(Constant):
    """Bytes of a packet whose reference lies ``back`` packets before it."""

    codec: str
    back: int


class EncodeConstant(Constant):
    """CPU time of preprocessing a frame."""

    codec: str


class Constants(BaseModel):
    """All of them; ``machines`` by the names that they use."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    machines: dict[str, str]
    step: tuple[StepConstant, ...]
    loader: tuple[LoaderConstant, ...]
    loader_cpu: tuple[LoaderConstant, ...]
    packet: tuple[PacketConstant, ...]
    encode: tuple[EncodeConstant, ...]
    listed: tuple[Constant, ...]

    def every(self) -> list[Constant]:
        """Each constant, of all kinds."""
        return [*self.step, *self.loader, *self.loader_cpu, *self.packet, *self.encode, *self.listed]


@cache
def constants() -> Constants:
    """Those that come with v4d."""
    text = (Path(__file__).parent / "constants.toml").read_text(encoding="utf-8")
    return Constants.model_validate(tomlkit.parse(text).unwrap())
