"""Datasets in, shards out: annotations, ffmpeg, and the format of the shards."""

from preprocess.index import Dataset, Index, VideoRow, read_dataset, read_index

__all__ = ["Dataset", "Index", "VideoRow", "read_dataset", "read_index"]
