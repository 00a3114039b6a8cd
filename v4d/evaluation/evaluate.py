"""Evaluation: Algorithm 1 over a split, its accuracy, and the dump of its scores."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import track

from pipelines import MAX_BAD, EvalLoader
from preprocess.durable_files import replace_atomically
from preprocess.index import VERSION
from v4d.evaluation.measures import Measures, measures_of
from v4d.evaluation.scores_file import SCORES, read_scores, write_scores
from v4d.evaluation.scoring import scored_batches
from v4d.inference import Activation
from v4d.models.folding import fold_norms
from v4d.neighbourhoods import sections
from v4d.trained import load_trained

ACCURACY = "accuracy.json"


@dataclass(frozen=True)
class Accuracy:
    """Accuracy over the labelled videos of a split, 0 to 1. ``top_k`` is 5, or the number of classes if less.

    ``left_out`` videos could not be loaded, and are not among them. ``measures`` is all that was measured.
    """

    videos: int
    classes: int
    top1: float
    top5: float
    top_k: int
    left_out: int = 0
    measures: Measures | None = field(default=None, repr=False, compare=False)

    @property
    def chance(self) -> float:
        """Top-1 of a guess that knows nothing."""
        return 1 / self.classes


def evaluate(
    run: Path,
    *,
    units_infer: int,
    device: torch.device,
    root: Path | None,
    split: str,
    batch: int,
    out: Path,
    console: Console,
    max_bad: float = MAX_BAD,
    scores: Activation | None = None,
) -> Accuracy:
    """Evaluate ``run``, a run's folder, a checkpoint or a weights file, with Algorithm 1 and three crops.

    ``scores`` says what is averaged over combinations and crops (see ``video_scores``): by default what the recipe's
    loss is of.

    ``root`` is the dataset, by default the one the run was trained on; a weights file knows none. Writes
    ``out``/scores.arrow (key, label, scores) and ``out``/accuracy.json, each naming what made it.

    Raises DataError where network or dataset are missing or do not go together, and where more than ``max_bad``
    (0 to 1) of the videos cannot be loaded; UsageError for too few units, or no dataset.
    """
    trained = load_trained(run)
    recipe = trained.recipe
    sections(units_infer, recipe.data.units)
    dataset = trained.read_dataset(root, console)
    model = fold_norms(trained.model).to(
        device, memory_format=torch.channels_last_3d if recipe.train.channels_last else torch.contiguous_format
    )  # type: ignore[call-overload]
    take = recipe.data.test_sampling(units_infer)
    loader = EvalLoader(dataset, split, take, global_batch=batch, device=device, max_bad=max_bad)

    out.mkdir(parents=True, exist_ok=True)
    keys, labels, averages = [], [], []
    batches = scored_batches(model, loader, recipe, units_infer, scores)
    for taken, scores_BK in track(batches, "videos", len(loader), console=console, transient=True):
        for key, of_video, values in zip(taken.keys, taken.all_labels, scores_BK.cpu().numpy(), strict=True):
            if key:
                keys.append(key)
                labels.append(of_video)
                averages.append(values)
    about = {
        "v4d": VERSION,
        **trained.about,
        "dataset": dataset.fingerprint,
        "split": split,
        "u_infer": units_infer,
        "scores": scores or recipe.train.loss,
        "loss": recipe.train.loss,
        "crops": loader.crops,
        "class_names": dataset.classes,
    }
    write_scores(out / SCORES, keys, labels, averages, about)
    measures = measures_of(read_scores(out / SCORES))
    accuracy = Accuracy(
        videos=measures.videos,
        classes=model.num_classes,
        top1=measures.figures["top1"].value,
        top5=measures.figures["top5"].value,
        top_k=measures.top_k,
        left_out=loader.bad.in_epoch,
        measures=measures,
    )
    measured = {name: getattr(accuracy, name) for name in ("videos", "classes", "top_k", "left_out", "chance")}
    with replace_atomically(out / ACCURACY) as temporary:
        temporary.write_text(_as_text({**measured, **measures.as_document(dataset.classes), **about}))
    return accuracy


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
