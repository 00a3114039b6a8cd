"""A run whose network was never trained, but has statistics of its own."""

from pathlib import Path

import torch

from preprocess.index import Dataset
from v4d.checkpoint import Checkpoint, save_checkpoint
from v4d.config import Recipe
from v4d.models.network import V4D


def save_untrained(run: Path, dataset: Dataset, recipe: Recipe) -> None:
    """Write its checkpoint, of step 3."""
    torch.manual_seed(1)
    model = V4D(recipe.model, len(dataset.classes))
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm3d):
            module.running_mean.uniform_(-0.1, 0.1)
    torch.nn.init.normal_(model.classifier.weight)
    checkpoint = Checkpoint(
        step=3,
        recipe=recipe,
        classes=dataset.classes,
        dataset=str(dataset.root),
        fingerprint=dataset.fingerprint,
        model=model.state_dict(),
        optimizer={},
        loader={},
    )
    save_checkpoint(run, checkpoint)
