"""Evaluation: Algorithm 1 over a split, its accuracy, and the dump of its scores."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import track
from torchmetrics.classification import MulticlassAccuracy

from pipelines import MAX_BAD, EvalLoader
from preprocess.durable_files import replace_atomically
from preprocess.index import VERSION
from v4d.evaluation.scores_file import SCORES, write_scores
from v4d.evaluation.scoring import scored_batches
from v4d.inference import Activation
from v4d.models.folding import fold_norms
from v4d.neighbourhoods import sections
from v4d.trained import load_trained


@dataclass(frozen=True)
class Accuracy:
    """Accuracy over the labelled videos of a split, 0 to 1. ``top_k`` is 5, or the number of classes if less.

    ``left_out`` videos could not be loaded, and are not among them.
    """

    videos: int
    classes: int
    top1: float
    top5: float
    top_k: int
    left_out: int = 0

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
    top_k = min(5, model.num_classes)
    top1 = MulticlassAccuracy(model.num_classes, average="micro", ignore_index=-1)
    top5 = MulticlassAccuracy(model.num_classes, top_k=top_k, average="micro", ignore_index=-1)
    keys, labels, averages = [], [], []
    batches = scored_batches(model, loader, recipe, units_infer, scores)
    for taken, scores_BK in track(
        batches, "videos", len(loader), console=console, transient=True, disable=console.quiet
    ):
        scores_BK = scores_BK.cpu()
        top1.update(scores_BK, taken.labels_B)
        top5.update(scores_BK, taken.labels_B)
        for row, label, values in zip(taken.rows_B.tolist(), taken.labels_B.tolist(), scores_BK.numpy(), strict=True):
            if row >= 0:
                keys.append(loader.index[row].key)
                labels.append(label)
                averages.append(values)
    accuracy = Accuracy(
        videos=sum(label >= 0 for label in labels),
        classes=model.num_classes,
        top1=top1.compute().item(),
        top5=top5.compute().item(),
        top_k=top_k,
        left_out=loader.bad.in_epoch,
    )
    about = {
        "v4d": VERSION,
        **trained.about,
        "dataset": dataset.fingerprint,
        "split": split,
        "u_infer": units_infer,
        "scores": scores or recipe.train.loss,
        "crops": loader.crops,
    }
    write_scores(out / SCORES, keys, labels, averages, about)
    with replace_atomically(out / "accuracy.json") as temporary:
        temporary.write_text(json.dumps({**asdict(accuracy), "chance": accuracy.chance, **about}, indent=2) + "\n")
    return accuracy
