"""Shards in, tensors on a device out."""

from pipelines.crops import SCALES
from pipelines.loader import Batch, EvalLoader, Sampling, TrainLoader

__all__ = ["SCALES", "Batch", "EvalLoader", "Sampling", "TrainLoader"]
