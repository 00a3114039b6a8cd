"""Datasets in, shards out: annotations, ffmpeg, and the format of the shards."""
