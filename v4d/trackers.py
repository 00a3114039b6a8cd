"""Where a run's curves go: TensorBoard, and Weights & Biases and MLflow where they are installed."""

from __future__ import annotations

import importlib.util
import json
import os
import queue
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from torch.utils.tensorboard import SummaryWriter

from preprocess.durable_files import replace_atomically
from preprocess.errors import UsageError
from preprocess.index import VERSION
from v4d.config import Recipe

# What they are called here, and the package that each needs.
TRACKERS = {"wandb": "wandb", "mlflow": "mlflow"}
_PROJECT = "v4d"
# What RUN goes by there, so that a run that goes on is the same one.
_IDS = "trackers.json"
_MOST_WAITING = 1000
_PATIENCE_S = 60.0
# Of MLflow while a run begins or goes on, unless the environment says otherwise: by its defaults it tries a server that
# is down for four minutes, and one that is silent for twenty. Later figures wait in a thread, which may take its time.
_MLFLOW_AT_START = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "3", "MLFLOW_HTTP_REQUEST_TIMEOUT": "10"}

# Figures of steps: the step, and its figures by name, as in "train/loss".
Figures = Sequence[tuple[int, dict[str, float]]]


class Tracker(Protocol):
    """Takes the curves of a run."""

    def figures(self, of_steps: Figures) -> None:
        """Note the figures of some steps, none of them before one that was noted earlier."""
        ...

    def picture(self, name: str, picture_HWC: np.ndarray, step: int) -> None:
        """Note a picture, uint8 RGB."""
        ...

    def flush(self) -> None:
        """Write what was noted so far."""
        ...

    def close(self, failed: bool) -> None:
        """End. A run that ``failed`` may go on later."""
        ...


class TensorBoard:
    """Curves in RUN/tensorboard. What is there of ``first_step`` or later is dropped."""

    def __init__(self, run: Path, first_step: int) -> None:
        self._writer = SummaryWriter(str(run / "tensorboard"), purge_step=first_step)

    def figures(self, of_steps: Figures) -> None:
        """See Tracker."""
        for step, values in of_steps:
            for name, value in values.items():
                self._writer.add_scalar(name, value, step)

    def picture(self, name: str, picture_HWC: np.ndarray, step: int) -> None:
        """See Tracker."""
        self._writer.add_image(name, picture_HWC, step, dataformats="HWC")

    def flush(self) -> None:
        """See Tracker."""
        self._writer.flush()

    def close(self, failed: bool) -> None:
        """See Tracker."""
        self._writer.close()


class About(NamedTuple):
    """A run as a tracker knows it: its folder, its settings as JSON has them, and its id there if it had one."""

    run: Path
    settings: dict[str, Any]
    id: str | None


class WeightsAndBiases:
    """A run of Weights & Biases, in the project that ``WANDB_PROJECT`` names, else "v4d". Offline: WANDB_MODE."""

    def __init__(self, about: About) -> None:
        import wandb

        self.id = about.id or secrets.token_hex(4)
        self._wandb, self._run = (
            wandb,
            wandb.init(
                project=os.environ.get("WANDB_PROJECT", _PROJECT),
                dir=about.run,
                id=self.id,
                name=about.run.name,
                resume="allow",
                config=about.settings,
                # It would put itself between the progress bar and the terminal.
                settings=wandb.Settings(console="off", silent=True, init_timeout=_PATIENCE_S),
            ),
        )

    def figures(self, of_steps: Figures) -> None:
        """See Tracker."""
        for step, values in of_steps:
            self._run.log(values, step=step)

    def picture(self, name: str, picture_HWC: np.ndarray, step: int) -> None:
        """See Tracker."""
        self._run.log({name: self._wandb.Image(picture_HWC)}, step=step)

    def flush(self) -> None:
        """See Tracker. It has a process of its own that writes."""

    def close(self, failed: bool) -> None:
        """See Tracker."""
        self._run.finish(exit_code=int(failed))


class Mlflow:
    """A run of MLflow, where ``MLFLOW_TRACKING_URI`` says, in ``MLFLOW_EXPERIMENT_NAME``, else "v4d"."""

    def __init__(self, about: About) -> None:
        from mlflow import MlflowClient, entities

        self._entities, self._client = entities, MlflowClient()
        with _by_default(_MLFLOW_AT_START):
            self.id = self._go_on(about.id) if about.id else self._begin(about)

    def _go_on(self, id: str) -> str:
        self._client.update_run(id, status="RUNNING")
        return id

    def _begin(self, about: About) -> str:
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", _PROJECT)
        known = self._client.get_experiment_by_name(name)
        experiment = known.experiment_id if known else self._client.create_experiment(name)
        id: str = self._client.create_run(experiment, run_name=about.run.name).info.run_id
        # Once and for all: it refuses another value, as that of a dataset that has moved.
        params = [self._entities.Param(key, str(value)) for key, value in _flat(about.settings).items()]
        self._client.log_batch(id, params=params)
        return id

    def figures(self, of_steps: Figures) -> None:
        """See Tracker."""
        now = int(time.time() * 1000)
        metrics = [
            self._entities.Metric(name, value, now, step) for step, values in of_steps for name, value in values.items()
        ]
        self._client.log_batch(self.id, metrics=metrics)

    def picture(self, name: str, picture_HWC: np.ndarray, step: int) -> None:
        """See Tracker."""
        self._client.log_image(self.id, picture_HWC, artifact_file=f"{name}-{step}.png")

    def flush(self) -> None:
        """See Tracker. What was noted is there already."""

    def close(self, failed: bool) -> None:
        """See Tracker."""
        self._client.set_terminated(self.id, "KILLED" if failed else "FINISHED")


class _Behind:
    """Lets a tracker work in a thread: a server that is slow or gone does not stop training, and is spoken of once."""

    def __init__(self, name: str, tracker: Tracker, say: Callable[[str], None]) -> None:
        self._name, self._tracker, self._say = name, tracker, say
        self._waiting: queue.Queue[Callable[[], None]] = queue.Queue(_MOST_WAITING)
        self._ended = threading.Event()
        self._said: set[str] = set()
        # A pool's threads are no daemons: Python would wait at its end for a server that does not answer.
        self._thread = threading.Thread(target=self._work, name=f"track-{name}", daemon=True)
        self._thread.start()

    def figures(self, of_steps: Figures) -> None:
        """See Tracker."""
        self._do(partial(self._tracker.figures, of_steps))

    def picture(self, name: str, picture_HWC: np.ndarray, step: int) -> None:
        """See Tracker."""
        self._do(partial(self._tracker.picture, name, picture_HWC, step))

    def flush(self) -> None:
        """See Tracker. Nobody waits for a server."""

    def close(self, failed: bool) -> None:
        """See Tracker."""
        until = time.monotonic() + _PATIENCE_S
        with suppress(queue.Full):
            self._waiting.put(partial(self._close, failed), timeout=_PATIENCE_S)
        self._thread.join(max(0.0, until - time.monotonic()))
        if self._thread.is_alive():
            self._ended.set()
            self._complain(f"it has not taken all in {_PATIENCE_S:g} s: the rest is given up")

    def _close(self, failed: bool) -> None:
        self._ended.set()
        self._tracker.close(failed)

    def _do(self, work: Callable[[], None]) -> None:
        try:
            self._waiting.put_nowait(work)
        except queue.Full:
            self._complain("it is too slow: figures are left out")

    def _work(self) -> None:
        while not self._ended.is_set():
            work = self._waiting.get()
            try:
                work()
            except Exception as error:  # Whatever it is, training does not end for it.
                self._complain(_first_line(error))

    def _complain(self, what: str) -> None:
        if what not in self._said:
            self._said.add(what)
            self._say(f"--track {self._name}: {what}; training goes on")


_KINDS: dict[str, type[WeightsAndBiases] | type[Mlflow]] = {"wandb": WeightsAndBiases, "mlflow": Mlflow}


def see_that_trackers_are_installed(names: Sequence[str]) -> None:
    """Raise UsageError if the package of one of ``names`` (keys of TRACKERS) is missing."""
    for name in names:
        if importlib.util.find_spec(TRACKERS[name]) is None:
            raise UsageError(f"--track {name}: {TRACKERS[name]} is not installed: pip install {TRACKERS[name]}")


def start_trackers(
    names: Sequence[str], run: Path, recipe: Recipe, dataset: Path, say: Callable[[str], None]
) -> list[Tracker]:
    """The trackers of ``names`` (keys of TRACKERS), each with the run that it already has of ``run``, or a new one.

    They get the recipe and the dataset's path as the settings of a new run. What goes wrong with one later, or now if
    it already has a run of ``run``, is told to ``say``, and the rest goes on. Raises UsageError if one is not
    installed, or does not take a new run.
    """
    see_that_trackers_are_installed(names)
    ids: dict[str, str] = json.loads((run / _IDS).read_text()) if (run / _IDS).exists() else {}
    settings = {"recipe": recipe.model_dump(mode="json"), "dataset": str(dataset.resolve()), "v4d": VERSION}
    started: list[Tracker] = []
    for name in names:
        try:
            tracker = _KINDS[name](About(run, settings, ids.get(name)))
        except Exception as error:  # Each package has its own errors, and lets through those of others.
            if name in ids:
                say(f"--track {name}: {_first_line(error)}; training goes on without it")
                continue
            for other in started:
                other.close(failed=True)
            raise UsageError(f"--track {name}: {_first_line(error)}") from error
        started.append(_Behind(name, tracker, say))
        ids[name] = tracker.id
    if started:
        with replace_atomically(run / _IDS) as temporary:
            temporary.write_text(json.dumps(ids))
    return started


@contextmanager
def _by_default(settings: dict[str, str]) -> Iterator[None]:
    """Have the environment say so for the length of the block, where it says nothing."""
    new = settings.keys() - os.environ.keys()
    os.environ.update({name: settings[name] for name in new})
    try:
        yield
    finally:
        for name in new:
            del os.environ[name]


def _flat(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
