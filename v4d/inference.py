"""Video-level inference, Algorithm 1 of the paper: more units than in training, every combination of one per section.

Shape suffixes: B videos, U action units, M combinations, C channels, T frames of a unit, H, W, K classes.
"""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

from preprocess.errors import UsageError
from v4d.models.network import V4D

_UNITS_AT_ONCE = 512


def sections(units_infer: int, units_train: int) -> list[range]:
    """The units of each section: ``units_train`` sections of near-equal size, symmetric where that is possible.

    10 units make four sections of 2, 3, 3 and 2. Raises UsageError if there are fewer units than sections.
    """
    if units_infer < units_train:
        raise UsageError(
            f"--u-infer {units_infer} is below the {units_train} units that the network was trained on: "
            f"use {units_train} or more"
        )
    bounds = [round(i * units_infer / units_train) for i in range(units_train + 1)]
    return [range(low, high) for low, high in itertools.pairwise(bounds)]


def combinations(units_infer: int, units_train: int) -> Tensor:
    """Every choice of one unit per section, (M, units_train) int64."""
    return torch.tensor(list(itertools.product(*sections(units_infer, units_train))))


@torch.no_grad()
def video_scores(model: V4D, x_NCTHW: Tensor, units_infer: int, units_train: int) -> Tensor:
    """Softmax scores averaged over all combinations, (B, K) float32.

    ``x_NCTHW`` holds B·units_infer units, 0 to 255. The layers below the first 4D block run once per unit, those
    above on every combination. The model must be in eval mode.
    """
    below_BUCTHW = model.forward_below(x_NCTHW).unflatten(0, (-1, units_infer))
    chosen_MU = combinations(units_infer, units_train).to(x_NCTHW.device)
    videos = below_BUCTHW.shape[0]
    total_BK = x_NCTHW.new_zeros((videos, model.num_classes), dtype=torch.float32)
    for chunk_MU in chosen_MU.split(max(1, _UNITS_AT_ONCE // (videos * units_train))):
        # Indexed with the channels last, so that the result keeps the layout.
        units_NTHWC = below_BUCTHW.permute(0, 1, 3, 4, 5, 2)[:, chunk_MU].flatten(0, 2)
        above = model.forward_above(units_NTHWC.permute(0, 4, 1, 2, 3), units_train)
        logits = model.forward_head(above, units_train).unflatten(0, (videos, -1))
        total_BK += logits.float().softmax(dim=-1).sum(dim=1)
    return total_BK / len(chosen_MU)
