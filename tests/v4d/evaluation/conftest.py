"""A run to evaluate."""

import pytest
import torch

from v4d.checkpoint import Checkpoint, save_checkpoint
from v4d.models.network import V4D


@pytest.fixture
def run(dataset, recipe, tmp_path):
    """A run whose network was never trained, but has statistics of its own."""
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
    save_checkpoint(tmp_path / "run", checkpoint)
    return tmp_path / "run"
