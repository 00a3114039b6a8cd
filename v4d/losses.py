"""What a network is to say of a batch, and how far it is from that.

Shape suffixes: B videos, K classes.
"""

from __future__ import annotations

from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from pipelines import Batch
from v4d.config import TrainConfig


class Targets(Protocol):
    """The labels of the videos of a batch, on a device."""

    def at(self, rows: Tensor | slice) -> Targets:
        """Those of some rows."""
        ...

    def loss(self, logits_BK: Tensor) -> Tensor:
        """The sum of the losses of all videos that have a label, (), of float32 logits."""
        ...

    def hits(self, scores_BK: Tensor) -> Tensor:
        """Whether the highest score is that of a label, (B,) bool; not for videos without one."""
        ...


class FirstLabel:
    """Cross-entropy with the first label of each video; ``labels_B`` (int64) is -1 for those without."""

    def __init__(self, labels_B: Tensor, smoothing: float = 0.0) -> None:
        self._labels_B, self._smoothing = labels_B, smoothing

    def at(self, rows: Tensor | slice) -> FirstLabel:
        """See Targets."""
        return FirstLabel(self._labels_B[rows], self._smoothing)

    def loss(self, logits_BK: Tensor) -> Tensor:
        """See Targets."""
        return F.cross_entropy(
            logits_BK, self._labels_B, ignore_index=-1, reduction="sum", label_smoothing=self._smoothing
        )

    def hits(self, scores_BK: Tensor) -> Tensor:
        """See Targets."""
        hits_B: Tensor = scores_BK.argmax(dim=1) == self._labels_B
        return hits_B


class AllLabels:
    """Binary cross-entropy of every class with all labels of each video; ``labels_BK`` (float32) is 1 for a label.

    It is summed over classes, where torch's own is a mean: so a class's gradient is as large as under softmax, and
    learning rates hold for both. Videos without a label count in nothing.
    """

    def __init__(self, labels_BK: Tensor, smoothing: float = 0.0) -> None:
        self._labels_BK, self._smoothing = labels_BK, smoothing

    def at(self, rows: Tensor | slice) -> AllLabels:
        """See Targets."""
        return AllLabels(self._labels_BK[rows], self._smoothing)

    def loss(self, logits_BK: Tensor) -> Tensor:
        """See Targets."""
        smooth_BK = self._labels_BK * (1 - self._smoothing) + self._smoothing / self._labels_BK.shape[1]
        losses_B = F.binary_cross_entropy_with_logits(logits_BK, smooth_BK, reduction="none").sum(dim=1)
        # Not a product: what does not count may be infinite.
        return losses_B.where(self._labels_BK.any(dim=1), 0).sum()

    def hits(self, scores_BK: Tensor) -> Tensor:
        """See Targets."""
        return self._labels_BK.gather(1, scores_BK.argmax(dim=1, keepdim=True)).squeeze(1) > 0


def targets_of(batch: Batch, config: TrainConfig, classes: int, device: torch.device) -> Targets:
    """The targets of a batch under ``train.loss`` and ``train.label_smoothing``."""
    if config.loss == "softmax":
        return FirstLabel(batch.labels_B.to(device, non_blocking=True), config.label_smoothing)
    return AllLabels(batch.targets_BK(classes).to(device, non_blocking=True), config.label_smoothing)
