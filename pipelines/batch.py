"""What a loader hands out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pipelines.samples import Sample


@dataclass(frozen=True, eq=False)
class Batch:
    """B videos on a device.

    Each tensor of ``crops`` is uint8, (B·U, C, T, H, W) in channels_last_3d layout, 0 to 255: one in training; in
    evaluation as many as asked for, or one where three would be the same. JPEGs on a GPU: they share DALI's memory.
    ``labels_B`` (int64, CPU) is that of what the crops show, after a flip: -1 for rows that do not count and for
    unlabelled videos; the first one where a video has several, all of which are in ``all_labels``. ``rows_B`` (int64,
    CPU) is the row in the index, and ``keys`` is its key; -1 and "" for rows that do not count: they fill up the last
    batch, or stand in for a video that cannot be loaded.
    """

    crops: tuple[Tensor, ...]
    labels_B: Tensor
    all_labels: tuple[tuple[int, ...], ...]
    rows_B: Tensor
    keys: tuple[str, ...]

    @classmethod
    def of(cls, samples: Sequence[Sample], crops: tuple[Tensor, ...]) -> Batch:
        """The batch of some samples, given their crops."""
        labels = torch.tensor([sample.label if sample.place.valid else -1 for sample in samples])
        all_labels = tuple(sample.labels if sample.place.valid else () for sample in samples)
        rows = [sample.row_number if sample.place.valid else -1 for sample in samples]
        keys = tuple(sample.row.key if sample.place.valid else "" for sample in samples)
        return cls(crops, labels, all_labels, torch.tensor(rows), keys)

    @property
    def x(self) -> Tensor:
        """The only crop of a training batch."""
        (only,) = self.crops
        return only

    def targets_BK(self, classes: int) -> Tensor:  # noqa: N802 - a shape suffix
        """1 for each label of each video, else 0: (B, K) float32, CPU."""
        targets_BK = torch.zeros(len(self.all_labels), classes)
        for row, labels in enumerate(self.all_labels):
            targets_BK[row, list(labels)] = 1
        return targets_BK

    @property
    def mask_B(self) -> Tensor:  # noqa: N802 - a shape suffix
        """Which rows count, (B,) bool, CPU."""
        return self.rows_B >= 0
