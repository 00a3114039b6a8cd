"""Networks, training and evaluation."""

from v4d.models.cast import Cast4d, cast_to_4d
from v4d.models.conv4d import Conv4d, conv4d
from v4d.models.generalized_nonlocal import CompactGeneralizedNonLocalBlock
from v4d.models.network import V4D
from v4d.models.nonlocal_block import NonLocalBlock
from v4d.models.registry import create_model, list_models
from v4d.models.residual_4d import Residual4dBlock
from v4d.models.units import InterUnitBlock

__all__ = [
    "V4D",
    "Cast4d",
    "CompactGeneralizedNonLocalBlock",
    "Conv4d",
    "InterUnitBlock",
    "NonLocalBlock",
    "Residual4dBlock",
    "cast_to_4d",
    "conv4d",
    "create_model",
    "list_models",
]
