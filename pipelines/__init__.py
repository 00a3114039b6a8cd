"""Shards in, tensors on a device out; or single video files."""

from pipelines.bad_videos import BadVideos
from pipelines.batch import Batch
from pipelines.crops import SCALES
from pipelines.file_loader import FileLoader
from pipelines.loader import MAX_BAD, EvalLoader, TrainLoader, decode_threads
from pipelines.samples import Sampling
from pipelines.shard_store import MappedShards, ShardStore

__all__ = [
    "MAX_BAD",
    "SCALES",
    "BadVideos",
    "Batch",
    "EvalLoader",
    "FileLoader",
    "MappedShards",
    "Sampling",
    "ShardStore",
    "TrainLoader",
    "decode_threads",
]
