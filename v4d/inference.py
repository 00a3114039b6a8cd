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
# Also the bytes of a number of the pooled features and scores, of which there are two.
_COPIES = 8
# Of the stem, for each value of its input: 64 channels at a quarter of the positions, three times.
_BYTES_BELOW = 64
_SHARE_OF_FREE_MEMORY = 1 / 4
# And no more than this: more would be no faster, and what is free changes, by other processes too, where the parts that
# follow from it, and so the rounding of scores, are not to.
_MOST_BYTES = {"cuda": 4 << 30, "cpu": 1 << 30}
_MOST_AT_ONCE = 1 << 24
ACTIVATIONS: dict[Activation, Callable[[Tensor], Tensor]] = {
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
    networks of several labels. The model must be in eval mode.

    Beside the features of all units below the first block, which are kept, what is there at a time takes about
    ``most_bytes`` (but no less than one combination takes): by default a quarter of the memory that is free, at most 1
    GiB, on a GPU 4 GiB.

    Raises UsageError if there are fewer units than sections or too many combinations, ValueError if the units do not
    divide N or the model is in training mode.
    """
    if model.training:
        raise ValueError("the model is in training mode: call its eval() first")
    sections(units_infer, units_train)
    if x_NCTHW.shape[0] % units_infer:
        raise ValueError(f"units_infer={units_infer} does not divide the {x_NCTHW.shape[0]} units of x")
    videos = x_NCTHW.shape[0] // units_infer
    most = _free_bytes(x_NCTHW.device) if most_bytes is None else most_bytes
    below_NCTHW = _below(model, x_NCTHW, videos, max(1, most // (_BYTES_BELOW * x_NCTHW[0].numel())))

    of_one_unit = _COPIES * below_NCTHW[0].numel() * below_NCTHW.element_size() * videos
    of_one_combination = _COPIES * (units_train * model.num_features + model.num_classes) * videos
    reaches = tuple(block.reach for block, _ in model.stages_4d)
    total_BK = torch.zeros(videos, model.num_classes, device=x_NCTHW.device)
    count = 0
    fitting = _rounded(most // of_one_unit), _rounded(most // of_one_combination)
    for part_MS, found in chunks(units_infer, units_train, reaches, *fitting):
        video_XC = _video_features(model, below_NCTHW, videos, part_MS, found)
        logits_MBK = model.classify(video_XC).float().unflatten(0, (-1, videos))
        total_BK += ACTIVATIONS[activation](logits_MBK).sum(dim=0)
        count += len(part_MS)
    return total_BK / count


def _below(model: V4D, x_NCTHW: Tensor, videos: int, at_once: int) -> Tensor:
    """The features of every unit below the first block, so many at once; first come those of all videos' first unit."""
    if videos == 1 and len(x_NCTHW) <= at_once:
        return model.forward_below(x_NCTHW)
    place = torch.arange(len(x_NCTHW)).view(-1, videos).T.ravel().to(x_NCTHW.device)
    below_NTHWC: Tensor | None = None
    for number, part_NCTHW in enumerate(x_NCTHW.split(at_once)):
        part_NTHWC = model.forward_below(part_NCTHW).permute(0, 2, 3, 4, 1)
        if below_NTHWC is None:
            below_NTHWC = part_NTHWC.new_empty((len(x_NCTHW), *part_NTHWC.shape[1:]))
        below_NTHWC[place[number * at_once : number * at_once + len(part_NTHWC)]] = part_NTHWC
    assert below_NTHWC is not None
    return below_NTHWC.permute(0, 4, 1, 2, 3)


def _video_features(model: V4D, x_NCTHW: Tensor, videos: int, part_MS: np.ndarray, found: list[Depth]) -> Tensor:
    """The pooled features of each combination of each video, (M·B, C)."""
    stages = model.stages_4d
    of_MS = part_MS
    for depth, (block, layers) in zip(found, stages, strict=False):
        # A part of the combinations may not need every unit.
        used, neighbours = np.unique(depth.neighbours_NK, return_inverse=True)
        neighbours_NK = neighbours.reshape(depth.neighbours_NK.shape)
        if used[0] < 0:
            used, neighbours_NK = used[1:], neighbours_NK - 1
        if len(used) * videos < len(x_NCTHW):
            x_NCTHW = taken(x_NCTHW, _of_videos(used[:, None], videos).ravel())
        x_NCTHW = block.at_units(x_NCTHW, _of_videos(neighbours_NK, videos))
        for layer in layers:
            x_NCTHW = layer(x_NCTHW)
        of_MS = depth.of_MS
    if len(found) == len(stages):
        # Every combination's mean is one of the same few features.
        unit_NC = model.pool(x_NCTHW, 1)
        return unit_NC[_of_videos(of_MS, videos).to(unit_NC.device)].mean(dim=1)
    units = part_MS.shape[1]
    x_NCTHW = taken(x_NCTHW, _of_videos(of_MS, videos).ravel())
    return model.pool(model.forward_above(x_NCTHW, units, len(found)), units)


def _of_videos(which: np.ndarray, videos: int) -> Tensor:
    """Numbers of features (X, Y), -1 for none, as those of each video: (X·B, Y)."""
    of_each = which[:, None, :] * videos + np.arange(videos)[:, None]
    return torch.from_numpy(np.where(which[:, None, :] < 0, -1, of_each).reshape(-1, which.shape[1]))


def _rounded(count: int) -> int:
    """Down to a power of two: free memory changes from call to call, and parts should not, nor their rounding."""
    return 1 << max(0, min(count, _MOST_AT_ONCE).bit_length() - 1)


def _free_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        # What the allocator keeps for later counts as taken there.
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        free = torch.cuda.mem_get_info(device)[0] + kept
    elif device.type == "cpu":
        free = free_memory()
    else:
        return 1 << 60
    return min(int(free * _SHARE_OF_FREE_MEMORY), _MOST_BYTES[device.type])
