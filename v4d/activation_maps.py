"""3D class activation maps (appendix A.2 of the paper; Zhou et al., CVPR 2016, for pictures): where a class is seen.

Shape suffixes: B videos, U action units, N = B·U, C channels, T frames of a unit, H, W, K classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from v4d.config import Precision
from v4d.models.network import V4D
from v4d.precision import autocast


@dataclass(frozen=True, eq=False)
class ActivationMaps:
    """The map of one class for each video, float32 on the CPU, and what the network says of the video.

    ``maps_BUTHW`` has the height and width of the last feature maps. The mean of a video's map is the logit of its
    class, less the classifier's bias: each value is what a place adds to it. ``classes_B`` int64, ``logits_BK``
    float32.
    """

    maps_BUTHW: Tensor
    classes_B: Tensor
    logits_BK: Tensor


@torch.no_grad()
def activation_maps(
    model: V4D, x_NCTHW: Tensor, units: int, classes_B: Tensor | None = None, *, precision: Precision = "fp32"
) -> ActivationMaps:
    """The activation maps of ``classes_B`` (int64, any device), by default of each video's top class.

    ``x_NCTHW`` holds the pixels of ``units`` action units of each of B videos, 0 to 255, on the model's device. The
    network runs once on all units, as in training: with U_train units of each video this is the only combination of
    Algorithm 1.

    Raises ValueError if ``units`` do not divide N, the model is in training mode, or a class is none of its own.
    """
    if model.training:
        raise ValueError("the model is in training mode: call its eval() first")
    with autocast(precision, x_NCTHW.device):
        features_NCTHW = model.forward_features(x_NCTHW, units)
        logits_BK = model.forward_head(features_NCTHW, units).float()
    chosen_B = logits_BK.argmax(dim=1) if classes_B is None else classes_B.to(logits_BK.device)
    if chosen_B.shape != logits_BK.shape[:1] or not ((chosen_B >= 0) & (chosen_B < model.num_classes)).all():
        raise ValueError(f"classes_B must be one of 0 to {model.num_classes - 1} for each of {len(logits_BK)} videos")
    weights_BC = model.classifier.weight[chosen_B].float()
    features_BUCTHW = features_NCTHW.float().unflatten(0, (-1, units))
    maps_BUTHW = torch.einsum("bc,bucthw->buthw", weights_BC, features_BUCTHW)
    return ActivationMaps(maps_BUTHW.cpu(), chosen_B.cpu(), logits_BK.cpu())
