"""Scores of untrimmed videos, snippet by snippet, whatever their length (the paper's appendix A.1).

Action units are taken at an even rate over the whole video, and a snippet is U_train of them in a row: as many as the
network was trained on, so that its 4D blocks see what they know. Snippets begin at every unit that has so many behind
it, each unit's lower features being computed once. With one unit in training a snippet is a unit.

Shape suffixes: N units, M snippets, K classes, C channels, T frames of a unit, H, W.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from pipelines import Sampling, UntrimmedLoader
from v4d.config import DataConfig, Recipe
from v4d.inference import Activation, window_scores
from v4d.models.network import V4D
from v4d.precision import autocast

# Of a video at a time; as much as 8 units take is what Algorithm 1 has of each video.
CHUNK_UNITS = 8


class SnippetScores(NamedTuple):
    """What the network says of the snippets of the video in row ``row_number``, (M, K) float32, in their order."""

    row_number: int
    key: str
    labels: tuple[int, ...]
    scores_MK: np.ndarray


def chunk_sampling(data: DataConfig) -> Sampling:
    """What is taken at a time of an untrimmed video: whole videos, whatever a sample was in training."""
    return replace(data.test_sampling(data.units), units=CHUNK_UNITS, over="video")


@dataclass(eq=False)
class _Video:
    """What is known of the video that is being scored: of each crop the features of the last units."""

    held: dict[int, Tensor] = field(default_factory=dict)
    scores: list[Tensor] = field(default_factory=list)
    is_bad: bool = False


def snippet_scores(
    model: V4D, loader: UntrimmedLoader, recipe: Recipe, scores: Activation | None = None
) -> Iterator[SnippetScores]:
    """Each video of ``loader`` with its snippets' ``scores``, averaged over the crops.

    They are those of the recipe's loss, if no others are asked for. Videos that cannot be loaded are left out. Puts the
    model in eval mode.
    """
    model.eval()
    video = _Video()
    for batch, chunks in loader:
        in_a_row = len(batch.crops[0]) // len(batch.rows_B)
        for place, chunk in enumerate(chunks):
            if chunk.first == 0:
                video = _Video()
            video.is_bad |= batch.rows_B[place].item() < 0
            if video.is_bad:
                continue
            units = slice(place * in_a_row, place * in_a_row + chunk.length)
            _go_on(video, model, [crop[units] for crop in batch.crops], recipe, scores or recipe.train.loss)
            if chunk.is_last:
                scores_MK = torch.cat(video.scores).cpu().numpy()
                yield SnippetScores(chunk.row_number, batch.keys[place], batch.all_labels[place], scores_MK)


def _go_on(video: _Video, model: V4D, crops: list[Tensor], recipe: Recipe, scores: Activation) -> None:
    """Score the snippets that end in the next units of a video, of which ``crops`` are (N, C, T, H, W) each."""
    units = recipe.data.units
    of_crops = []
    for number, crop_NCTHW in enumerate(crops):
        x_NCTHW = crop_NCTHW if recipe.train.channels_last else crop_NCTHW.contiguous()
        with torch.no_grad(), autocast(recipe.train.precision, x_NCTHW.device):
            below_NCTHW = model.forward_below(x_NCTHW)
            if number in video.held:
                below_NCTHW = torch.cat([video.held[number], below_NCTHW])
            if len(below_NCTHW) >= units:
                of_crops.append(window_scores(model, below_NCTHW, units, activation=scores))
        video.held[number] = below_NCTHW[max(0, len(below_NCTHW) - units + 1) :]
    if of_crops:
        video.scores.append(torch.stack(of_crops).mean(dim=0))
