"""Scores of a split, batch by batch, by a protocol.

Shape suffixes: B videos, K classes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import torch
from torch import Tensor

from pipelines import Batch
from v4d.config import Recipe
from v4d.evaluation.protocols import Protocol
from v4d.inference import Activation
from v4d.models.network import V4D
from v4d.precision import autocast


def scored_batches(
    model: V4D,
    batches: Iterable[Batch],
    recipe: Recipe,
    protocol: Protocol,
    scores: Activation | None = None,
    flip: Mapping[int, int] | None = None,
) -> Iterator[tuple[Batch, Tensor]]:
    """Each of some batches of an EvalLoader with its ``scores``, (B, K) float32: by ``protocol``, a mean over crops.

    They are those of the recipe's loss, if no others are asked for. ``flip`` is the dataset's: of a mirrored crop a
    class that names a direction gets the score of the class that it is mirrored, and where there is none, that of the
    crop itself. Puts the model in eval mode.
    """
    model.eval()
    scores = scores or recipe.train.loss
    units = recipe.data.units
    mirrored = torch.tensor([(flip or {}).get(label, label) for label in range(model.num_classes)])

    def of(x: Tensor) -> Tensor:
        x = x if recipe.train.channels_last else x.contiguous()
        with autocast(recipe.train.precision, x.device):
            return protocol.scores(model, x, units, scores)

    for batch in batches:
        total_BK, count = torch.zeros((), device=batch.crops[0].device), 0
        for crop in batch.crops:
            x = protocol.in_order(crop, batch.keys, units)
            seen = [of(x)]
            if protocol.mirrors:
                of_mirrored_BK, mirrored = of(x.flip(-1)), mirrored.to(x.device)
                seen.append(torch.where(mirrored < 0, seen[0], of_mirrored_BK[:, mirrored.clamp(min=0)]))
            total_BK = total_BK + sum(seen)
            count += len(seen)
        yield batch, total_BK / count
