"""Shards in, tensors on a device out."""

from pipelines.loader import Batch, EvalLoader, Sampling, TrainLoader

__all__ = ["Batch", "EvalLoader", "Sampling", "TrainLoader"]
