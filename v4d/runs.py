"""Runs: which one the commands use where none is named, what each notes about itself, and a list of them."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from preprocess.durable_files import is_held, replace_atomically
from preprocess.errors import DataError, UsageError
from preprocess.index import Dataset
from v4d.checkpoint import checkpoints_in, last_checkpoint, versions
from v4d.config import Recipe
from v4d.launch import Place
from v4d.recipes.files import packaged_recipes
from v4d.training_log import LOG, best_step, last_step, records, validations

_LOG = logging.getLogger(__name__)
RUNS = Path("runs")
LOCK = "lock"
_RECORD = "run.json"
_State = Literal["running", "stopped", "finished", "failed"]
_KILLED = "its process ended without a word: killed, or the machine went down"


def choose_recipe(dataset: Dataset, device: str) -> str:
    """The packaged recipe that fits a dataset on a device, "cpu" or "cuda"; one made for its kind goes first.

    Raises UsageError, with the candidates, where not exactly one does.
    """
    known = packaged_recipes().values()
    fitting = [recipe for recipe in known if device in recipe.fits.devices and not recipe.fits.by_name]
    for_kind = [recipe.name for recipe in fitting if dataset.kind in recipe.fits.kinds]
    names = for_kind or [recipe.name for recipe in fitting if not recipe.fits.kinds]
    if len(names) != 1:
        raise UsageError(f"{len(names)} recipes fit {dataset.root}, choose one with --recipe: {', '.join(names)}")
    why = f"made for datasets of the kind {dataset.kind}" if for_kind else "made for any dataset"
    _LOG.info("recipe %s: %s, on %s; --recipe would name another", names[0], why, device)
    return names[0]


def choose_run_to_train(dataset: Dataset, recipe: Recipe) -> Path:
    """The folder of the run that this dataset and recipe began, else of a new one beside those of others."""
    name = f"{dataset.name}-{recipe.name}"
    number = 1
    while (run := RUNS / (name if number == 1 else f"{name}-{number}")).exists():
        if last_checkpoint(run) is None:
            return run
        with suppress(DataError):
            record = read_record(run)
            if record.recipe == recipe and record.fingerprint == dataset.fingerprint:
                return run
        number += 1
    return run


def choose_run() -> Path:
    """The newest run under runs/ that has a checkpoint. Raises UsageError if there is none."""
    found = [last for run in RUNS.glob("*") if (last := last_checkpoint(run))]
    if not found:
        raise UsageError(f"there is no run with a checkpoint under {RUNS}/: run v4d train, or name a run")
    newest = max(found, key=_made_at)
    _LOG.info("%s: the newest of %d runs with a checkpoint under %s/", newest, len(found), RUNS)
    return next(run for run in newest.parents if run.parent == RUNS)


def _made_at(checkpoint: Path) -> float:
    try:
        return checkpoint.stat().st_mtime
    except FileNotFoundError:
        # In training: a newer one has taken its place.
        return time.time()


class RunEnd(BaseModel):
    """How a run ended the last time, and why it failed."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    state: _State
    why: str = ""


class RunRecord(BaseModel):
    """What a run notes about itself in RUN/run.json: all that it takes to go on, and how it ended.

    ``steps`` are those of the whole run. ``gpus`` are those of a node, 0 on the CPU, and ``processes`` those of all
    nodes. ``end`` is None while the run is trained, or after its process was killed.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal[1] = 1
    recipe: Recipe
    dataset: Path
    fingerprint: str
    steps: int
    max_bad: float
    track: tuple[str, ...]
    gpus: int
    processes: int
    versions: dict[str, str]
    end: RunEnd | None = None

    @classmethod
    def of(
        cls, recipe: Recipe, dataset: Dataset, steps: int, place: Place, max_bad: float, track: tuple[str, ...]
    ) -> RunRecord:
        """That of a run at its beginning."""
        return cls(
            recipe=recipe,
            dataset=dataset.root.resolve(),
            fingerprint=dataset.fingerprint,
            steps=steps,
            max_bad=max_bad,
            track=track,
            gpus=place.ranks_here if place.device.type == "cuda" else 0,
            processes=place.ranks,
            versions=versions(),
        )


def read_record(run: Path) -> RunRecord:
    """What a run notes about itself. Raises DataError if there is none, it is damaged or of another version."""
    path = run / _RECORD
    try:
        return RunRecord.model_validate_json(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        raise DataError(f"{run} is no run: there is no {path}") from None
    except ValidationError as error:
        first = error.errors()[0]
        if first["type"] == "json_invalid":
            raise DataError(f"{path} is damaged: {first['msg']}") from None
        place = ".".join(str(part) for part in first["loc"])
        if not place:
            raise DataError(f"{path} is damaged: {first['msg']}") from None
        raise DataError(f"{path} is of another version of v4d: {place}: {first['msg']}") from None


@dataclass
class Ending:
    """How a run is about to end."""

    finished: bool = False


@contextmanager
def recorded(run: Path, record: RunRecord, silent: bool) -> Iterator[Ending]:
    """Note that ``run`` is trained, and after the block how it ended; on a ``silent`` rank nothing."""

    def note(end: RunEnd | None) -> None:
        if not silent:
            with replace_atomically(run / _RECORD) as temporary:
                temporary.write_text(record.model_copy(update={"end": end}).model_dump_json(indent=2) + "\n")

    ending = Ending()
    note(None)
    try:
        yield ending
    except BaseException as error:
        how = RunEnd(state="failed", why=(str(error).splitlines() or [type(error).__name__])[0])
        if isinstance(error, KeyboardInterrupt):
            how = RunEnd(state="stopped")
        # On a full disk the error itself says more.
        with suppress(OSError):
            note(how)
        raise
    note(RunEnd(state="finished" if ending.finished else "stopped"))


@dataclass(frozen=True)
class RunSummary:
    """A line about a run. ``score`` is the best validation's top-1, ``changed`` when its log or record last was."""

    run: str
    recipe: str
    dataset: str
    state: _State
    why: str
    step: int
    steps: int
    score: float | None
    best_step: int | None
    changed: datetime

    def as_document(self) -> dict[str, Any]:
        """For JSON."""
        return {**asdict(self), "changed": self.changed.isoformat(timespec="seconds")}


def summary(run: Path) -> RunSummary:
    """A run in a line. Raises DataError as ``read_record``."""
    record = read_record(run)
    end = record.end or RunEnd(state="failed", why=_KILLED)
    if is_held(run / LOCK):
        end = RunEnd(state="running")
    times = [path.stat().st_mtime for name in (_RECORD, LOG) if (path := run / name).exists()]
    return RunSummary(
        run=str(run),
        recipe=record.recipe.name,
        dataset=str(record.dataset),
        state=end.state,
        why=end.why,
        step=max(last_step(run) if end.state == "running" else 0, max(checkpoints_in(run), default=0)),
        steps=record.steps,
        score=max((record["val_top1"] for record in validations(run)), default=None),
        best_step=best_step(run),
        changed=datetime.fromtimestamp(max(times), timezone.utc),
    )


def list_runs(folder: Path) -> Iterator[RunSummary]:
    """The runs in a folder, by name; what is none is passed over, what is of another version with a line."""
    for run in sorted(folder.glob("*")):
        if not (run / _RECORD).exists():
            continue
        try:
            yield summary(run)
        except DataError as error:
            print(f"v4d: {error}", file=sys.stderr)


@dataclass(frozen=True)
class CheckpointSize:
    """A checkpoint of a run, its bytes, and whether it is the ``last`` or ``best`` one."""

    step: int
    path: str
    bytes: int
    last: bool
    best: bool


def checkpoint_sizes(run: Path) -> list[CheckpointSize]:
    """The checkpoints of a run; one that training removes meanwhile is not among them."""
    sizes: dict[int, int] = {}
    found = checkpoints_in(run)
    for step, path in found.items():
        with suppress(FileNotFoundError):
            size = sum(file.stat().st_size for file in path.iterdir())
            # Of one that is gone by now it may have been a part.
            path.stat()
            sizes[step] = size
    best, last = best_step(run, sizes), max(sizes, default=0)
    return [CheckpointSize(step, str(found[step]), size, step == last, step == best) for step, size in sizes.items()]


def epochs(run: Path) -> list[dict[str, Any]]:
    """By epoch: ``epoch``, means of ``loss`` and ``top1`` over its steps, and ``val_top1``, which may be None."""
    figures: dict[int, list[tuple[float, float]]] = {}
    for record in records(run):
        if "loss" in record:
            figures.setdefault(record["epoch"], []).append((record["loss"], record["top1"]))
    scores = {record["epoch"]: record["val_top1"] for record in validations(run)}
    return [
        {
            "epoch": epoch,
            "loss": sum(loss for loss, _ in steps) / len(steps),
            "top1": sum(top1 for _, top1 in steps) / len(steps),
            "val_top1": scores.get(epoch),
        }
        for epoch, steps in sorted(figures.items())
    ]
