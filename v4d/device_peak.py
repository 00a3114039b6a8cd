"""What a GPU could do at most, and what training a video takes: what the log's share of the peak is made of."""

from __future__ import annotations

import torch

from v4d.config import Recipe
from v4d.models.multiply_adds import count_multiply_adds, on_meta

# Dense bf16 (fp16 is the same), in TFLOP/s, by the start of the name that CUDA gives; the first that fits counts.
# Datasheets give some with sparsity, which is twice as much. NVIDIA H200: SXM 1,979 and NVL 1,671 with sparsity.
# NVIDIA H100: SXM 1,979, NVL 1,671 and PCIe 1,513 with sparsity. NVIDIA A100: 312, all forms.
_PEAKS = {
    "NVIDIA H200 NVL": 835.5,
    "NVIDIA H200": 989.5,
    "NVIDIA H100 NVL": 835.5,
    "NVIDIA H100 PCIe": 756.5,
    "NVIDIA H100 80GB HBM3": 989.5,
    "NVIDIA A100": 312.0,
}
_PRECISIONS = ("bf16", "fp16")


def peak_flops(device_name: str) -> float | None:
    """FLOP/s of a GPU in bf16 by its datasheet, or None if it is not known here."""
    return next((peak * 1e12 for name, peak in _PEAKS.items() if device_name.startswith(name)), None)


def device_peak(device: torch.device, precision: str) -> float | None:
    """``peak_flops`` of a device in use; None on a CPU, and where ``precision`` ("fp32", "bf16", ...) is another."""
    if device.type != "cuda" or precision not in _PRECISIONS:
        return None
    return peak_flops(torch.cuda.get_device_name(device))


def training_flops(recipe: Recipe, classes: int) -> int:
    """FLOPs of a training step for each video.

    Twice the multiply-adds of convolutions, linear layers and attention, once forward and twice backward, as is usual;
    what activation checkpointing computes again does not count.
    """
    data = recipe.data
    model, x_NCTHW = on_meta(recipe.model, classes, data.units, data.frames, data.train_crop)
    return 3 * 2 * count_multiply_adds(lambda: model(x_NCTHW, data.units)).products
