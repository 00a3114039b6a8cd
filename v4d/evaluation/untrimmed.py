"""Scores of untrimmed videos, snippet by snippet, whatever their length (the paper's appendix A.1).

Action units are taken at an even rate over the whole video, and a snippet is U_train of them in a row: as many as the
network was trained on, so that its 4D blocks see what they know. Snippets begin at every unit that has so many behind
it, each unit's lower features being computed once. With one unit in training a snippet is a unit.

Shape suffixes: N units, M snippets, K classes, C channels, T frames of a unit, H, W.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from pipelines import Batch, UnitChunk
from v4d.config import Recipe
from v4d.evaluation.scoring import turned_back
from v4d.evaluation.window_integration import integrated
from v4d.inference import Activation, window_scores
from v4d.models.network import V4D
from v4d.precision import autocast


@dataclass(frozen=True, eq=False)
class SnippetScoring:
    """How a network scores snippets.

    ``scores`` says of what scores are: by default of what the recipe's loss is. ``mirrors`` says whether each crop is
    seen mirrored too, and ``flip`` what a mirrored class is, as in ``scored_batches``.
    """

    model: V4D
    recipe: Recipe
    scores: Activation | None = None
    mirrors: bool = False
    flip: Mapping[int, int] | None = None


class SnippetScores(NamedTuple):
    """What the network says of the snippets of a video, (M, K) float32, in their order.

    ``key`` is empty, as in a batch, and there are no snippets, of a video that cannot be loaded.
    """

    key: str
    labels: tuple[int, ...]
    scores_MK: np.ndarray

    def integrated(self) -> np.ndarray:
        """The scores of the video, (K,) float32: its snippets', integrated over windows of time; 0 if it has none."""
        scores_K = integrated(self.scores_MK) if self.key else np.zeros(self.scores_MK.shape[1])
        return scores_K.astype(np.float32)


def snippet_scores(how: SnippetScoring, batches: Iterable[tuple[Batch, list[UnitChunk]]]) -> Iterator[SnippetScores]:
    """Each video of some batches of an UntrimmedLoader with its snippets' scores, averaged over the crops.

    Puts the model in eval mode.
    """
    how.model.eval()
    scorer = _Scorer(how)
    is_bad = False
    for batch, chunks in batches:
        in_a_row = len(batch.crops[0]) // len(batch.rows_B)
        for place, chunk in enumerate(chunks):
            if chunk.first == 0:
                scorer.begin()
                is_bad = False
            is_bad |= batch.rows_B[place].item() < 0
            if not is_bad:
                units = slice(place * in_a_row, place * in_a_row + chunk.length)
                scorer.go_on([crop[units] for crop in batch.crops])
            else:
                scorer.begin()
            if chunk.is_last:
                key, labels = ("", ()) if is_bad else (batch.keys[place], batch.all_labels[place])
                yield SnippetScores(key, labels, scorer.end())


class _Scorer:
    """Scores one video after the other, of each crop of which it holds the features of the last units."""

    def __init__(self, how: SnippetScoring) -> None:
        self._how = how
        self._held: dict[int, Tensor] = {}
        self._scores: list[Tensor] = []

    def begin(self) -> None:
        """Take the next video."""
        self._held, self._scores = {}, []

    def go_on(self, crops: list[Tensor]) -> None:
        """Score the snippets that end in the next units of the video, of which ``crops`` are (N, C, T, H, W) each."""
        of_crops: list[Tensor] = []
        for number, crop_NCTHW in enumerate(crops):
            of_crop_MK = self._windows(2 * number, crop_NCTHW)
            of_crops.append(of_crop_MK)
            if self._how.mirrors:
                mirrored_MK = self._windows(2 * number + 1, crop_NCTHW.flip(-1))
                of_crops.append(turned_back(mirrored_MK, of_crop_MK, self._how.flip))
        self._scores.append(torch.stack(of_crops).mean(dim=0))

    def end(self) -> np.ndarray:
        """The scores of all snippets of the video, (M, K) float32."""
        if not self._scores:
            return np.zeros((0, self._how.model.num_classes), np.float32)
        scores_MK: np.ndarray = torch.cat(self._scores).cpu().numpy()
        return scores_MK

    def _windows(self, stream: int, x_NCTHW: Tensor) -> Tensor:
        """The scores of the snippets that end in these units of a crop, (M, K) float32."""
        model, recipe = self._how.model, self._how.recipe
        units = recipe.data.units
        x_NCTHW = x_NCTHW if recipe.train.channels_last else x_NCTHW.contiguous()
        with torch.no_grad(), autocast(recipe.train.precision, x_NCTHW.device):
            below_NCTHW = model.forward_below(x_NCTHW)
            if stream in self._held:
                below_NCTHW = torch.cat([self._held[stream], below_NCTHW])
            self._held[stream] = below_NCTHW[max(0, len(below_NCTHW) - units + 1) :]
            if len(below_NCTHW) < units:
                return below_NCTHW.new_zeros((0, model.num_classes), dtype=torch.float32)
            return window_scores(model, below_NCTHW, units, activation=self._how.scores or recipe.train.loss)
