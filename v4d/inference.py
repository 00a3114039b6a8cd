"""Video-level inference, Algorithm 1 of the paper: more units than in training, every combination of one per section.

The layers below the first block that relates units run once per unit, those above it once for each neighbourhood of
units that differs (see ``neighbourhoods``), which gives what they give on every combination.

Shape suffixes: B videos, U action units, M combinations, S sections (U_train), C channels, T frames of a unit, H, W, K
classes. Features of B videos lie one behind the other: feature n of video b is at n·B + b.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from pipelines.in_flight import free_memory
from v4d.models.network import V4D
from v4d.models.units import taken
from v4d.neighbourhoods import Depth, chunks, sections

Activation = Literal["softmax", "sigmoid", "logits"]
# How many tensors as large as the features are there at a time: input and output, and what a block and a layer hold.
_COPIES = 8
# Of the stem, for each value of its input: 64 channels at a quarter of the positions, three times.
_BYTES_BELOW = 64
_SHARE_OF_FREE_MEMORY = 1 / 4
_ACTIVATIONS: dict[Activation, Callable[[Tensor], Tensor]] = {
    "softmax": lambda logits: logits.softmax(dim=-1),
    "sigmoid": Tensor.sigmoid,
    "logits": lambda logits: logits,
}


@torch.no_grad()
def video_scores(
    model: V4D,
    x_NCTHW: Tensor,
    units_infer: int,
    units_train: int,
    *,
    activation: Activation = "softmax",
    most_bytes: int | None = None,
) -> Tensor:
    """Scores averaged over all combinations, (B, K) float32.

    ``x_NCTHW`` holds B·units_infer units, 0 to 255. What is averaged is the ``activation`` of the logits: "sigmoid" for
    networks of several labels. Features take about ``most_bytes`` at most (but no less than one combination takes): by
    default a quarter of the memory that is free. The model must be in eval mode.

    Raises UsageError if there are fewer units than sections, ValueError if the units do not divide N.
    """
    sections(units_infer, units_train)
    if x_NCTHW.shape[0] % units_infer:
        raise ValueError(f"units_infer={units_infer} does not divide the {x_NCTHW.shape[0]} units of x")
    videos = x_NCTHW.shape[0] // units_infer
    most = _free_bytes(x_NCTHW.device) if most_bytes is None else most_bytes
    at_once = max(1, most // (_BYTES_BELOW * x_NCTHW[0].numel()))
    below_NCTHW = _join([model.forward_below(part) for part in x_NCTHW.split(at_once)])
    # From unit after unit of each video to video after video of each unit.
    if videos > 1:
        below_NCTHW = taken(below_NCTHW, torch.arange(len(x_NCTHW)).view(videos, units_infer).T.ravel())

    of_one_unit = _COPIES * below_NCTHW[0].numel() * below_NCTHW.element_size()
    reaches = tuple(block.reach for block, _ in model.stages_4d)
    total_BK = torch.zeros(videos, model.num_classes, device=x_NCTHW.device)
    count = 0
    for part_MS, found in chunks(units_infer, units_train, reaches, max(1, most // (of_one_unit * videos))):
        video_XC = _video_features(model, below_NCTHW, videos, part_MS, found)
        logits_MBK = model.classify(video_XC).float().unflatten(0, (-1, videos))
        total_BK += _ACTIVATIONS[activation](logits_MBK).sum(dim=0)
        count += len(part_MS)
    return total_BK / count


def _video_features(model: V4D, x_NCTHW: Tensor, videos: int, part_MS: np.ndarray, found: list[Depth]) -> Tensor:
    """The pooled features of each combination of each video, (M·B, C)."""
    stages = model.stages_4d
    of_MS = part_MS
    for depth, (block, layers) in zip(found, stages, strict=False):
        x_NCTHW = block.at_units(x_NCTHW, _of_videos(depth.neighbours_NK, videos))
        for layer in layers:
            x_NCTHW = layer(x_NCTHW)
        of_MS = depth.of_MS
    if len(found) == len(stages):
        # Every combination's mean is one of the same few features.
        unit_NC = model.pool(x_NCTHW, 1)
        return unit_NC[_of_videos(of_MS, videos).to(unit_NC.device)].mean(dim=1)
    units = part_MS.shape[1]
    x_NCTHW = taken(x_NCTHW, _of_videos(of_MS, videos).ravel())
    for block, layers in stages[len(found) :]:
        x_NCTHW = block(x_NCTHW, units)
        for layer in layers:
            x_NCTHW = layer(x_NCTHW)
    return model.pool(x_NCTHW, units)


def _of_videos(which: np.ndarray, videos: int) -> Tensor:
    """Numbers of features (X, Y), -1 for none, as those of each video: (X·B, Y)."""
    of_each = which[:, None, :] * videos + np.arange(videos)[:, None]
    return torch.from_numpy(np.where(which[:, None, :] < 0, -1, of_each).reshape(-1, which.shape[1]))


def _join(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _free_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return int(free * _SHARE_OF_FREE_MEMORY)
    return int(free_memory() * _SHARE_OF_FREE_MEMORY) if device.type == "cpu" else 1 << 60
