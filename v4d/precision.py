"""The number format that networks compute in: ``train.precision`` of a recipe."""

from __future__ import annotations

import torch

from v4d.config import Precision


def autocast(precision: Precision, device: torch.device) -> torch.autocast:
    """The context in which a network computes in ``precision``; with "fp32" it changes nothing."""
    number = torch.float16 if precision == "fp16" else torch.bfloat16
    return torch.autocast(device.type, number, enabled=precision != "fp32")
