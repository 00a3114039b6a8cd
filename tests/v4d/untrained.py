"""Networks that were never trained, but have statistics of their own, and the run of one."""

import torch

from v4d.checkpoint import Checkpoint, save_checkpoint
from v4d.models.network import V4D


def untrained(recipe, classes, seed=1):
    """A network whose scores differ from video to video."""
    torch.manual_seed(seed)
    model = V4D(recipe.model, classes)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm3d):
            module.running_mean.uniform_(-0.1, 0.1)
    torch.nn.init.normal_(model.classifier.weight)
    return model


def untrained_run(run, recipe, dataset, seed=1):
    """Write the checkpoint of such a network into the folder of a run, which is returned."""
    checkpoint = Checkpoint(
        step=3,
        recipe=recipe,
        classes=dataset.classes,
        dataset=str(dataset.root),
        fingerprint=dataset.fingerprint,
        model=untrained(recipe, len(dataset.classes), seed).state_dict(),
        optimizer={},
        loader={},
    )
    save_checkpoint(run, checkpoint)
    return run
