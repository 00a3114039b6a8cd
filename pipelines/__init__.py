"""Shards in, tensors on a device out."""

from pipelines.bad_videos import BadVideos
from pipelines.batch import Batch
from pipelines.crops import SCALES
from pipelines.loader import MAX_BAD, EvalLoader, TrainLoader, UntrimmedLoader, decode_threads
from pipelines.samples import Sampling
from pipelines.shard_store import MappedShards, ShardStore
from pipelines.unit_chunks import UnitChunk

__all__ = [
    "MAX_BAD",
    "SCALES",
    "BadVideos",
    "Batch",
    "EvalLoader",
    "MappedShards",
    "Sampling",
    "ShardStore",
    "TrainLoader",
    "UnitChunk",
    "UntrimmedLoader",
    "decode_threads",
]
