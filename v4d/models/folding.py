"""Networks for test, with their batch norms folded into the convolutions before them."""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy

import torch
from torch import nn

from v4d.models.conv4d import Conv4d
from v4d.models.network import V4D


@torch.no_grad()
def fold_norms(model: V4D) -> V4D:
    """A copy for test, in eval mode, of which no parameter takes a gradient; its scores are the same but for rounding.

    In eval mode a batch norm scales and shifts each channel by numbers that stay, and so can the convolution itself.
    """
    copy = deepcopy(model).eval().requires_grad_(False)
    for module in list(copy.modules()):
        for conv_name, norm_name in _pairs(module):
            conv, norm = getattr(module, conv_name), getattr(module, norm_name)
            assert norm.running_var is not None and norm.running_mean is not None
            scale = norm.weight / (norm.running_var + norm.eps).sqrt()
            shift = norm.bias - norm.running_mean * scale
            # In place: so the layout stays.
            conv.weight.mul_(scale.view(-1, *[1] * (conv.weight.ndim - 1)))
            conv.bias = nn.Parameter(shift if conv.bias is None else shift + conv.bias * scale, requires_grad=False)
            setattr(module, norm_name, nn.Identity())
    return copy


def _pairs(module: nn.Module) -> Iterator[tuple[str, str]]:
    """The names of a module's convolutions, each with that of the batch norm of its output.

    In a sequence the norm comes next; elsewhere ``norm1`` is that of ``conv1``, ``norm`` that of ``conv`` or ``out``.
    """
    children = dict(module.named_children())
    for number, (name, child) in enumerate(children.items()):
        if isinstance(child, nn.BatchNorm3d):
            if isinstance(module, nn.Sequential):
                conv = str(number - 1)
            else:
                conv = next(of for of in (name.replace("norm", "conv"), "out") if of in children)
            if not isinstance(children[conv], nn.Conv3d | Conv4d):
                raise TypeError(f"{name} of {type(module).__name__} does not follow a convolution, but {conv}")
            yield conv, name
