"""The arithmetic of a plan: room, time, what training needs of a machine, and which of it binds first."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import Any

from benchmarks.planning.constants import Figure, constants
from benchmarks.planning.known import loader_cpu, loader_rate, step_rate
from benchmarks.planning.rehearsal import Rehearsal, rehearse
from benchmarks.planning.video_bytes import (
    bytes_in_index,
    bytes_in_shard,
    bytes_read,
    made_up_row,
    packet_figure,
)
from preprocess.errors import UsageError
from v4d.config import Recipe

MOST_VIDEOS, MOST_GPUS = 10_000_000, 1024
_NOT_AS_MEASURED = ("assumed", "extrapolated")


@dataclass(frozen=True)
class Machine:
    """What there is; None where it is not known.

    ``storage_bytes_per_s`` is what the storage gives to each node, ``disk_bytes`` the room for the shards, and
    ``preprocess_cores`` are those of all machines that preprocess.
    """

    gpu: str
    gpus: int
    gpus_per_node: int = 8
    cores_per_gpu: float | None = None
    storage_bytes_per_s: float | None = None
    disk_bytes: float | None = None
    preprocess_cores: int | None = None

    @property
    def nodes(self) -> int:
        return -(-self.gpus // self.gpus_per_node)

    @property
    def gpus_on_a_node(self) -> int:
        """On the fullest one."""
        return min(self.gpus, self.gpus_per_node)


@dataclass(frozen=True)
class Asked:
    """What is to be planned: ``videos`` of ``frames`` frames to train on.

    ``efficiency`` is how fast each of the GPUs is beside one alone, above 0 to 1; ``extrapolate`` allows figures that
    are scaled from what was measured.
    """

    videos: int
    frames: int
    fps: float
    codec: str
    recipe: Recipe
    machine: Machine
    efficiency: float = 1.0
    extrapolate: bool = False

    @property
    def share(self) -> int:
        """Videos of a step on each GPU. Raises UsageError where they do not share the global batch out evenly."""
        try:
            return self.recipe.train.share_of(self.machine.gpus)
        except UsageError as error:
            raise UsageError(f"{error}: say how many videos of a step each GPU has, as --batch-per-gpu 16") from None


@dataclass(frozen=True)
class Replaced:
    """Figures that stand in for the constants: the user's own, or of a file; None where there are none.

    ``size`` is of a video's packets, in bytes, and ``core_seconds`` what preprocessing it takes.
    """

    step: Figure | None = None
    loader: Figure | None = None
    loader_cpu: Figure | None = None
    size: Figure | None = None
    core_seconds: Figure | None = None


@dataclass(frozen=True)
class Limit:
    """Something that bounds training: ``allows`` videos/s for each GPU, None where that is not known.

    ``needs`` and ``has`` are in ``unit``, at the planned speed; ``relief`` is what would help.
    """

    name: str
    allows: float | None
    needs: float | None
    has: float | None
    unit: str
    relief: str
    figure: Figure | None


@dataclass(frozen=True)
class Plan:
    """A plan; times are in hours, ``notes`` what a reader must know of it."""

    asked: Asked
    rehearsal: Rehearsal
    bytes_per_video: float
    shard_bytes: float
    index_bytes: float
    list_bytes: float
    bytes_read: float
    core_hours: float
    preprocess_hours: float | None
    videos_per_s: float
    epoch_hours: float
    train_hours: float
    limits: tuple[Limit, ...]
    bound_by: str
    relief: str
    figures: dict[str, Figure]
    notes: tuple[str, ...] = field(default_factory=tuple)

    @property
    def disk_bytes(self) -> float:
        return self.shard_bytes + self.index_bytes

    @property
    def hours(self) -> float | None:
        """To the end of training, preprocessing counted in; None where nobody said how many cores do that."""
        return None if self.preprocess_hours is None else self.preprocess_hours + self.train_hours


def plan(asked: Asked, replaced: Replaced | None = None) -> Plan:
    """Plan. Raises UsageError where a figure that is needed was never measured, or the GPUs do not divide the batch."""
    replaced = replaced or Replaced()
    machine, recipe = asked.machine, asked.recipe
    if not 1 <= asked.videos <= MOST_VIDEOS or not 1 <= machine.gpus <= MOST_GPUS:
        raise UsageError(f"plans go up to {MOST_VIDEOS:,} videos and {MOST_GPUS:,} GPUs")
    share = asked.share
    step = replaced.step or step_rate(recipe, machine.gpu, share, asked.extrapolate)
    figures = {"training step": step}

    row = made_up_row(asked.codec, asked.frames, asked.fps)
    figures["size"] = replaced.size or packet_figure(asked.codec)
    size = row.size if replaced.size is None else replaced.size.value
    in_shard = size + bytes_in_shard(row, asked.codec) - row.size
    # Other content makes all packets larger or smaller.
    read = bytes_read(row, recipe.data) * size / row.size
    in_index = bytes_in_index(row)
    core_seconds = _core_seconds(asked, replaced, figures)
    (listed,) = constants().listed
    figures["list of videos"] = listed.figure()

    rehearsal = rehearse(asked.videos, recipe.train.global_batch, machine.gpus)
    core_hours = asked.videos * core_seconds / 3600
    rate, limits = _limits(asked, replaced, step, read, figures)
    (slowest, *_) = (limit for limit in limits if limit.allows == rate)
    seconds_per_step = share / (rate * asked.efficiency)
    epoch_hours = rehearsal.balance.steps * seconds_per_step / 3600
    shard_bytes = asked.videos * in_shard
    made = Plan(
        asked=asked,
        rehearsal=rehearsal,
        bytes_per_video=in_shard,
        shard_bytes=shard_bytes,
        index_bytes=asked.videos * in_index,
        list_bytes=asked.videos * listed.value,
        bytes_read=read,
        core_hours=core_hours,
        preprocess_hours=_preprocess_hours(core_seconds, rehearsal, machine.preprocess_cores),
        videos_per_s=rate,
        epoch_hours=epoch_hours,
        train_hours=epoch_hours * recipe.optim.epochs,
        limits=limits,
        bound_by=slowest.name,
        relief=slowest.relief,
        figures=figures,
        notes=tuple(_notes(asked, replaced, figures)),
    )
    return _with_what_binds(made)


def _core_seconds(asked: Asked, replaced: Replaced, figures: dict[str, Figure]) -> float:
    """Of CPU, to preprocess a video."""
    if replaced.core_seconds:
        figures["preprocessing"] = replaced.core_seconds
        return replaced.core_seconds.value
    (of_frame,) = (one for one in constants().encode if one.codec == asked.codec)
    figures["preprocessing"] = of_frame.figure()
    return of_frame.value * asked.frames / 1e3


def _preprocess_hours(core_seconds: float, rehearsal: Rehearsal, cores: int | None) -> float | None:
    """A core writes one shard after the other: the last ones may leave some of them idle."""
    if cores is None:
        return None
    in_turn = -(-rehearsal.shards // cores)
    return in_turn * rehearsal.videos_in_shard * core_seconds / 3600


def _limits(
    asked: Asked, replaced: Replaced, step: Figure, read: float, figures: dict[str, Figure]
) -> tuple[float, tuple[Limit, ...]]:
    """Videos/s for each GPU, and what bounds it."""
    machine, data = asked.machine, asked.recipe.data
    loader = replaced.loader or loader_rate(data, machine.gpu, asked.codec, asked.extrapolate)
    cpu = replaced.loader_cpu or loader_cpu(data, machine.gpu, asked.codec, asked.extrapolate)
    figures |= {name: of for name, of in (("loader", loader), ("loader's CPU", cpu)) if of}
    of_loader = loader.value if loader else None
    of_cores = machine.cores_per_gpu * 1e3 / cpu.value if cpu and machine.cores_per_gpu else None
    of_storage = None
    if machine.storage_bytes_per_s:
        of_storage = machine.storage_bytes_per_s / machine.gpus_on_a_node / read
    rate = min(allowed for allowed in (step.value, of_loader, of_cores, of_storage) if allowed is not None)

    unit = "videos/s a GPU"
    mjpeg = "" if asked.codec == "mjpeg" else ", or --codec mjpeg where there is room for it"
    compact = "" if asked.codec == "vp9" else ", or --codec vp9, which takes fewer bytes and more CPU"
    needed_cores = rate * cpu.value / 1e3 if cpu else None
    needed_bytes = rate * read * machine.gpus_on_a_node
    more_gpus, per_gpu = "more GPUs, faster ones, or fewer epochs", f"more GPUs: each has its own decoders{mjpeg}"
    return rate, (
        Limit("GPU", step.value, rate, step.value, unit, more_gpus, step),
        Limit("loader", of_loader, rate, of_loader, unit, per_gpu, loader),
        Limit("CPU", of_cores, needed_cores, machine.cores_per_gpu, "cores a GPU", f"more cores a GPU{mjpeg}", cpu),
        Limit(
            "storage",
            of_storage,
            needed_bytes,
            machine.storage_bytes_per_s,
            "bytes/s a node",
            f"a local SSD on each node{compact}",
            figures["size"],
        ),
    )


def _with_what_binds(made: Plan) -> Plan:
    """The plan, with room for it and preprocessing counted among what may bind first."""
    machine = made.asked.machine
    if machine.disk_bytes is not None and made.disk_bytes > machine.disk_bytes:
        smaller = "a compact codec (--codec vp9)" if made.asked.codec == "mjpeg" else "fewer videos or shorter ones"
        return replace(made, bound_by="disk", relief=f"more room, or {smaller}")
    if made.preprocess_hours is not None and made.preprocess_hours > made.train_hours:
        relief = "more cores, on several machines (--executor ray)"
        if made.rehearsal.shards < (machine.preprocess_cores or 0):
            relief = "smaller shards (--shard-size): there are more cores than shards"
        return replace(made, bound_by="preprocessing", relief=relief)
    return made


def _notes(asked: Asked, replaced: Replaced, figures: dict[str, Figure]) -> list[str]:
    recipe, machine = asked.recipe, asked.machine
    notes = [f"{name} is {of.basis}: {of.note}" for name, of in figures.items() if of.basis in _NOT_AS_MEASURED]
    notes.append("validation, tests, checkpoints and starts are not counted")
    if machine.gpus > 1 and asked.efficiency == 1.0:
        notes.append(
            f"what {machine.gpus:,} GPUs lose to each other was not measured: hours are those of {machine.gpus:,} GPUs "
            "each as fast as one alone, the least there can be (--efficiency 0.9 for a share of it)"
        )
    if replaced.step is None and asked.codec != "mjpeg":
        notes.append(f"the training step was measured beside a loader of mjpeg, not {asked.codec}")
    if not recipe.optim.lr_per:
        notes.append(
            f"the learning rate, {recipe.optim.lr:g}, is the recipe's own; batches are of "
            f"{recipe.train.global_batch:,} videos (--set optim.lr_per=64 scales it)"
        )
    if recipe.data.over == "segment":
        notes.append("the recipe's samples are segments: --videos counts segments here")
    return notes


def as_document(made: Plan) -> dict[str, Any]:
    """The plan as JSON has it."""
    asked = made.asked
    document = asdict(made) | {
        "disk_bytes": made.disk_bytes,
        "hours": made.hours,
        "asked": {
            "videos": asked.videos,
            "frames": asked.frames,
            "fps": asked.fps,
            "codec": asked.codec,
            "recipe": asked.recipe.name,
            "global_batch": asked.recipe.train.global_batch,
            "epochs": asked.recipe.optim.epochs,
            "efficiency": asked.efficiency,
            "extrapolate": asked.extrapolate,
            **asdict(asked.machine),
        },
    }
    document["rehearsal"] |= {
        "start_seconds": made.rehearsal.start_seconds,
        "rank_bytes": made.rehearsal.rank_bytes,
    }
    return document
