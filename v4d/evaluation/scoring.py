"""Scores of videos, batch by batch, by Algorithm 1.

Shape suffixes: B videos, K classes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from pipelines import Batch
from v4d.config import Recipe
from v4d.inference import Activation, video_scores
from v4d.models.network import V4D
from v4d.precision import autocast


def scored_batches(
    model: V4D, batches: Iterable[Batch], recipe: Recipe, units_infer: int, scores: Activation | None = None
) -> Iterator[tuple[Batch, Tensor]]:
    """Each of ``batches``, of crops of test, with its ``scores``, (B, K) float32: Algorithm 1, averaged over the crops.

    They are those of the recipe's loss, if no others are asked for. Puts the model in eval mode.
    """
    model.eval()
    scores = scores or recipe.train.loss
    for batch in batches:
        total = torch.zeros(len(batch.labels_B), model.num_classes, device=batch.crops[0].device)
        for crop in batch.crops:
            x = crop if recipe.train.channels_last else crop.contiguous()
            with autocast(recipe.train.precision, x.device):
                total += video_scores(model, x, units_infer, recipe.data.units, activation=scores)
        yield batch, total / len(batch.crops)
