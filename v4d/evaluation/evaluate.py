"""Evaluation: a protocol over a split, on one process or several, its measures, and the dump of its scores."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import islice, takewhile
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from rich.console import Console
from rich.progress import track

from pipelines import MAX_BAD, EvalLoader, UntrimmedLoader
from preprocess.console import notes_of, shows_progress
from preprocess.durable_files import replace_atomically
from preprocess.errors import DataError, Interrupted, stop_signals
from preprocess.index import VERSION, Dataset
from v4d.config import Recipe
from v4d.evaluation.measures import Measures, measures_of
from v4d.evaluation.parts import Parts
from v4d.evaluation.protocols import Protocol
from v4d.evaluation.scores_file import SCORES, read_about, read_scores
from v4d.evaluation.scoring import scored_batches
from v4d.evaluation.untrimmed import SnippetScoring, snippet_scores
from v4d.inference import Activation
from v4d.launch import STOP_SIGNALS, Place, as_on_main, this_place
from v4d.trained import Trained, load_trained

ACCURACY = "accuracy.json"
_LONG = timedelta(days=30)
# A file system of several machines may show a new checkpoint to some of them a minute late.
_TRIES, _SECONDS_BETWEEN_TRIES = 60, 1.0


@dataclass(frozen=True)
class Accuracy:
    """Accuracy over the labelled videos of a split, 0 to 1. ``top_k`` is 5, or the number of classes if less.

    ``left_out`` videos could not be loaded, and are not among them. ``measures`` is all that was measured. Where no
    video has a label the figures are NaN.
    """

    videos: int
    classes: int
    top1: float
    top5: float
    top_k: int
    left_out: int = 0
    measures: Measures | None = field(default=None, repr=False, compare=False)
    class_names: tuple[str, ...] = field(default=(), repr=False)

    @property
    def chance(self) -> float:
        """Top-1 of a guess that knows nothing."""
        return 1 / self.classes


@dataclass(frozen=True)
class Request:
    """What to evaluate: ``run``, a run's folder, a checkpoint or a weights file, on a split of the dataset ``root``.

    ``root`` is by default the dataset the run was trained on; a weights file knows none. ``batch`` videos, or chunks of
    untrimmed ones, are taken at a time by each process. ``scores`` says what is averaged over combinations and crops
    (see ``video_scores``): by default what the recipe's loss is of. More than ``max_bad`` (0 to 1) of the videos that
    cannot be loaded are too many. An evaluation that ``out`` has already is not done ``again`` by default: that is then
    said, with ``advice``.
    """

    run: Path
    out: Path
    protocol: Protocol = field(default_factory=Protocol)
    root: Path | None = None
    split: str = "val"
    batch: int = 4
    scores: Activation | None = None
    max_bad: float = MAX_BAD
    again: bool = False
    advice: str = ""


def evaluate_on_ranks(request: Request, gpus: int) -> Accuracy | None:
    """``evaluate`` as one of the processes that ``v4d.launch.launch`` starts; None where it was stopped."""
    with this_place(gpus) as place:
        try:
            return evaluate(request, place, notes_of(place.is_main))
        except Interrupted:
            return None


def evaluate(request: Request, place: Place, console: Console) -> Accuracy | None:
    """Evaluate, and write ``out``/scores.arrow (key, labels, scores) and ``out``/accuracy.json, which name what it was.

    What is finished lies beside them until the end, and is taken up by the same call later. Every process is to call
    it; only the main one gets the accuracy. The dump is the same bytes on any number of them.

    Raises DataError where network or dataset are missing or do not go together, where too many videos cannot be loaded,
    and where the network's scores are no numbers; UsageError for too few units, or no dataset; Interrupted where
    a signal asked it to stop.
    """
    began = time.monotonic()
    trained = _load_on_ranks(request.run, place)
    recipe, protocol = trained.recipe, request.protocol
    protocol.check(recipe.data)
    dataset = trained.read_dataset(request.root, console)
    loader = _loader(request, recipe, dataset, place)
    about = {
        "v4d": VERSION,
        **trained.about,
        "network": trained.digest,
        "dataset": dataset.fingerprint,
        "dataset_kind": dataset.kind,
        "split": request.split,
        **protocol.about(loader.crops),
        "scores": request.scores or recipe.train.loss,
        "loss": recipe.train.loss,
        "class_names": dataset.classes,
    }
    # As a file gives it back, to be compared with one.
    about = json.loads(json.dumps(about))
    at_once = request.batch if isinstance(loader, EvalLoader) else 1
    parts = Parts(request.out, {**about, "device": place.device.type}, loader.samples, at_once)
    is_finished = as_on_main(place.is_main and _is_of(request.out / SCORES, about), place)
    if is_finished and not request.again:
        advice = f": {request.advice}" if request.advice else ""
        console.print(f"{request.out} has this evaluation already{advice}")
    else:
        # The others may be done long before the last one is.
        group = dist.new_group(backend="gloo", timeout=_LONG) if place.ranks > 1 else None
        with parts.held(anew=is_finished) if place.is_main else nullcontext():
            missing = as_on_main(parts.missing() if place.is_main else [], place)
            if len(missing) < parts.count:
                console.print(f"going on: {parts.count - len(missing)} of {parts.count} parts are there")
            with stop_signals(STOP_SIGNALS, second_ends=place.ranks == 1) as asked:
                if missing:
                    scorer = _Scorer(request, trained, dataset, loader, place.device, console)
                    scorer.score(parts, missing[place.rank :: place.ranks], asked)
                stopped = [asked.is_set()] * place.ranks
                if group:
                    dist.all_gather_object(stopped, asked.is_set(), group)
            if any(stopped):
                raise Interrupted
            if not place.is_main:
                return None
            loader.bad.check(parts.left_out(), loader.bad.last)
            parts.join(request.out / SCORES, about)
    if not place.is_main:
        return None
    accuracy = _measured(request.out, loader.samples)
    parts.remove()
    if request.again or not is_finished:
        left_out = f", {accuracy.left_out} left out" if accuracy.left_out else ""
        console.print(f"evaluated {accuracy.videos} videos{left_out} in {time.monotonic() - began:.0f} s")
    return accuracy


def _load_on_ranks(run: Path, place: Place) -> Trained:
    """The same network on all ranks, also where ``run`` is in training and has another checkpoint by the moment.

    Raises DataError on all of them where they have not come together in a minute, as on nodes with a disk each.
    """
    for _ in range(_TRIES):
        trained = load_trained(run)
        if place.ranks == 1:
            return trained
        digests = [""] * place.ranks
        dist.all_gather_object(digests, trained.digest)
        if len(set(digests)) == 1:
            return trained
        time.sleep(_SECONDS_BETWEEN_TRIES)
    raise DataError(f"{run} holds another network for each process: let it be one folder that all nodes see")


def _loader(request: Request, recipe: Recipe, dataset: Dataset, place: Place) -> EvalLoader | UntrimmedLoader:
    protocol, take = request.protocol, request.protocol.sampling(recipe.data)
    options: dict[str, Any] = {"device": place.device, "threads": place.decode_threads, "max_bad": request.max_bad}
    options["crops"] = protocol.places
    if protocol.kind != "untrimmed":
        return EvalLoader(dataset, request.split, take, global_batch=request.batch, **options)
    rate, least = protocol.units_per_second, recipe.data.units
    return UntrimmedLoader(
        dataset, request.split, take, units_per_second=rate, least_units=least, batch=request.batch, **options
    )


class _Scorer:
    """The network of a request on a device, which scores parts."""

    def __init__(
        self,
        request: Request,
        trained: Trained,
        dataset: Dataset,
        loader: EvalLoader | UntrimmedLoader,
        device: torch.device,
        console: Console,
    ) -> None:
        self._request, self._trained, self._loader, self._console = request, trained, loader, console
        self._flip = dataset.flip
        self._model = trained.for_test(device)

    def score(self, parts: Parts, numbers: Sequence[int], asked: Event) -> None:
        """Write some of the parts, until ``asked`` to stop. Raises DataError."""
        steps = [step for number in numbers for step in parts.steps(number)]
        hidden = not shows_progress(self._console)
        scored = self._scored(steps, asked)
        shown = track(scored, "videos", len(steps), console=self._console, transient=True, disable=hidden)
        for number in numbers:
            keys: list[str] = []
            labels: list[tuple[int, ...]] = []
            averages: list[np.ndarray] = []
            for step in islice(shown, len(parts.steps(number))):
                for key, of_video, scores_K in step:
                    if not key:
                        continue
                    if not np.isfinite(scores_K).all():
                        raise DataError(f"{self._trained.path} gives scores that are no numbers, first to '{key}'")
                    keys.append(key)
                    labels.append(of_video)
                    averages.append(scores_K)
            if asked.is_set():
                return
            parts.write(number, keys, labels, averages)

    def _scored(self, steps: Sequence[int], asked: Event) -> Iterator[list[tuple[str, tuple[int, ...], np.ndarray]]]:
        """Key, labels and scores of the videos of each step, until ``asked`` to stop; no key of what does not count."""
        recipe, request = self._trained.recipe, self._request
        protocol = request.protocol
        if isinstance(self._loader, UntrimmedLoader):
            chunks = takewhile(lambda _: not asked.is_set(), self._loader.at(steps))
            how = SnippetScoring(self._model, recipe, request.scores, protocol.mirrors, self._flip)
            for video in snippet_scores(how, chunks):
                yield [(video.key, video.labels, video.integrated())]
            return
        batches = takewhile(lambda _: not asked.is_set(), self._loader.at(steps))
        for batch, scores_BK in scored_batches(self._model, batches, recipe, protocol, request.scores, self._flip):
            yield list(zip(batch.keys, batch.all_labels, scores_BK.cpu().numpy(), strict=True))


def _measured(out: Path, samples: int) -> Accuracy:
    """What the dump of ``out`` is worth, written beside it."""
    dump = read_scores(out)
    measures = measures_of(dump)
    accuracy = Accuracy(
        videos=measures.videos,
        classes=len(dump.class_names),
        top1=measures.figures["top1"].value,
        top5=measures.figures["top5"].value,
        top_k=measures.top_k,
        left_out=samples - len(dump.keys),
        measures=measures,
        class_names=dump.class_names,
    )
    said = {name: getattr(accuracy, name) for name in ("videos", "classes", "top_k", "left_out", "chance")}
    with replace_atomically(out / ACCURACY) as temporary:
        temporary.write_text(_as_text({**said, **measures.as_document(dump.class_names), **dump.about}))
    return accuracy


def _is_of(path: Path, about: dict[str, Any]) -> bool:
    """Whether there is a dump that was made by the same."""
    try:
        return read_about(path) == about
    except DataError:
        return False


def _as_text(document: dict[str, Any]) -> str:
    """JSON with a line for each key, and for each row of a list."""
    lines = []
    for key, value in document.items():
        if isinstance(value, (list, tuple)) and value and isinstance(value[0], (list, dict)):
            said = "[\n" + ",\n".join(f"    {json.dumps(row)}" for row in value) + "\n  ]"
        else:
            said = json.dumps(value)
        lines.append(f"  {json.dumps(key)}: {said}")
    return "{\n" + ",\n".join(lines) + "\n}\n"
