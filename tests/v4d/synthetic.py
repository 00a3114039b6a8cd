"""Batches of noise, as a loader would give them."""

import torch

from pipelines import Batch


def noise(recipe, videos=4, classes=5, labels=None, seed=0):
    """A batch for ``recipe``; ``labels`` are those of each video, by default one class after the other."""
    data = recipe.data
    draws = torch.Generator().manual_seed(seed)
    shape = (videos * data.units, 3, data.frames, data.train_crop, data.train_crop)
    x = torch.randint(0, 256, shape, dtype=torch.uint8, generator=draws)
    labels = tuple((i % classes,) for i in range(videos)) if labels is None else labels
    first = torch.tensor([row[0] if row else -1 for row in labels])
    keys = tuple(map(str, range(videos)))
    return Batch((x.contiguous(memory_format=torch.channels_last_3d),), first, labels, torch.arange(videos), keys)
