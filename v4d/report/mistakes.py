"""The frames of single videos of a run's dataset, and where its network sees a class in them, as pictures of a page.

Shape suffixes: B videos, U action units, T frames of a unit, H, W, C colours.
"""

from __future__ import annotations

import io
from base64 import b64encode
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from pipelines import EvalLoader
from pipelines.segments import read_segments
from preprocess.errors import DataError, V4dError
from preprocess.index import Index, read_dataset
from v4d.activation_maps import activation_maps
from v4d.activation_sheet import MapRow, overlaid_frames
from v4d.checkpoint import checkpoints_in
from v4d.report.evaluations import Evaluation, Mistake
from v4d.runs import RunRecord
from v4d.trained import Trained, load_trained

_SIDE = 144
_QUALITY = 82


@dataclass(frozen=True)
class Pictures:
    """Of each unit its middle frame, and the same with the map of the predicted class over it: JPEG as data URIs.

    ``maps`` is empty where the checkpoint is gone.
    """

    frames: tuple[str, ...]
    maps: tuple[str, ...]


def mistake_pictures(
    run: Path,
    record: RunRecord,
    evaluation: Evaluation,
    mistakes: Sequence[Mistake],
    root: Path | None,
    device: torch.device,
) -> tuple[dict[Mistake, Pictures], list[str]]:
    """The pictures of some mistakes of an evaluation, and what is to be said where there are none.

    ``root`` is the dataset, by default the one that was evaluated or, where that is not noted, trained on. What cannot
    be read, dataset, checkpoint or a video, is no error: the rest is shown.
    """
    if not mistakes:
        return {}, []
    notes: list[str] = []
    try:
        trained = _network_of(run, evaluation)
    except (V4dError, OSError) as error:
        trained = None
        notes.append(f"There are no activation maps, as the checkpoint that was evaluated cannot be read: {error}")
    try:
        pictures = _pictures(record, evaluation, mistakes, root or record.dataset, trained, device, notes)
    except (V4dError, OSError) as error:
        return {}, [f"There are no pictures, as the dataset cannot be read: {error}"]
    if missing := sum(mistake not in pictures for mistake in mistakes):
        notes.append(f"{missing} of the {len(mistakes)} videos are not in the dataset as it is now, or do not load.")
    return pictures, notes


def _network_of(run: Path, evaluation: Evaluation) -> Trained:
    """The network that was evaluated: its checkpoint in the run as it lies now, which may have moved since.

    Raises DataError where it is gone, or another one has taken its place.
    """
    about = evaluation.dump.about
    if "checkpoint" not in about:
        raise DataError("the evaluation names none")
    here, there = checkpoints_in(run).get(about["step"]), Path(about["checkpoint"])
    if here is None or here.resolve() == there:
        return _see_that_it_is(load_trained(there), about)
    try:
        return _see_that_it_is(load_trained(here), about)
    except DataError as error:
        # The run is a copy, which was trained anew.
        with suppress(DataError):
            return _see_that_it_is(load_trained(there), about)
        raise error


def _see_that_it_is(trained: Trained, about: dict[str, Any]) -> Trained:
    """The network, if it is the one that was evaluated. Raises DataError."""
    if trained.about["step"] != about["step"]:
        raise DataError(f"{trained.path} is of step {trained.about['step']}, step {about['step']} was evaluated")
    # Dumps of an older v4d do not name the network.
    if about.get("network", trained.digest) != trained.digest:
        raise DataError(f"{trained.path} is another network than was evaluated: the run was trained anew since")
    return trained


def _pictures(
    record: RunRecord,
    evaluation: Evaluation,
    mistakes: Sequence[Mistake],
    root: Path,
    trained: Trained | None,
    device: torch.device,
    notes: list[str],
) -> dict[Mistake, Pictures]:
    dataset = read_dataset(root)
    about, recipe = evaluation.dump.about, record.recipe
    if dataset.fingerprint != about["dataset"]:
        notes.append(f"{root} has been made anew since the evaluation: the pictures are of what it holds now.")
    units = recipe.data.units
    take = recipe.data.test_sampling(units)
    if about.get("protocol") == "untrimmed":
        # It scores whole videos, whatever the network was trained on.
        take = replace(take, over="video")
    loader = EvalLoader(
        dataset,
        about["split"],
        take,
        global_batch=1,
        device=device,
        crops=1,
        max_bad=1.0,
    )
    model = trained.model.to(device).eval() if trained else None
    numbers = _sample_numbers(loader.index, take.over, mistakes)
    found = {}
    # Of one video each, batches have the numbers of the samples.
    for mistake, batch in zip(numbers, loader.at(list(numbers.values())), strict=True):
        (x_NCTHW,) = batch.crops
        # Another label, or another key, is that of another video, or of one that stands in for it.
        if batch.keys != (mistake.key,) or batch.all_labels[0] != mistake.labels:
            continue
        frames_UTHWC = x_NCTHW.permute(0, 2, 3, 4, 1).cpu().numpy()
        middle = frames_UTHWC.shape[1] // 2
        maps: tuple[str, ...] = ()
        if model is not None:
            classes_B = torch.tensor([mistake.predicted])
            found_maps = activation_maps(model, x_NCTHW, units, classes_B, precision=recipe.train.precision)
            row = MapRow("", "", mistake.confidence, found_maps.maps_BUTHW[0].numpy())
            maps = tuple(_as_jpeg(picture) for picture in overlaid_frames(frames_UTHWC, row, [middle], _SIDE)[:, 0])
        found[mistake] = Pictures(tuple(_as_jpeg(picture) for picture in frames_UTHWC[:, middle]), maps)
    return found


def _sample_numbers(index: Index, over: str, mistakes: Sequence[Mistake]) -> dict[Mistake, int]:
    """The numbers of the samples in the split, of those mistakes whose keys it has."""
    keys = index.column("key")
    rows = read_segments(index).row_numbers.tolist() if over == "segment" else range(len(keys))
    wanted = {(mistake.key, mistake.occurrence): mistake for mistake in mistakes}
    seen: Counter[str] = Counter()
    found = {}
    for number, row in enumerate(rows):
        key = keys[row]
        if mistake := wanted.get((key, seen[key])):
            found[mistake] = number
        seen[key] += 1
    return found


def _as_jpeg(pixels_HWC: np.ndarray) -> str:
    file = io.BytesIO()
    image = Image.fromarray(np.ascontiguousarray(pixels_HWC))
    image.resize((_SIDE, _SIDE), Image.Resampling.LANCZOS).save(file, "JPEG", quality=_QUALITY)
    return f"data:image/jpeg;base64,{b64encode(file.getvalue()).decode()}"
