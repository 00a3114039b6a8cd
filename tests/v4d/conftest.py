"""A small dataset of ordered actions, and a recipe that trains on it in seconds."""

import importlib.util
from functools import partial

import pytest
import torch

from benchmarks.foreign_networks import pytorchvideo_hub
from preprocess.ffmpeg import EncodeOptions
from preprocess.index import read_dataset
from preprocess.local import write_shards_locally
from preprocess.ordered_actions import SIZE, list_videos, render
from preprocess.run import preprocess
from v4d.recipes.files import load_recipe

torch.set_num_threads(1)

TINY = ("model.base_width=4", "data.train_crop=32", "data.test_crop=32", "data.frames=2", "train.global_batch=4")


@pytest.fixture(scope="session")
def dataset(tmp_path_factory):
    """60×48 pixels, four videos of each of six classes for training, two for validation."""
    root = tmp_path_factory.mktemp("ordered-actions")
    render(root / "videos", {"train": 4, "val": 2}, seed=0, workers=2, on_video=lambda: None)
    listing = list_videos(root / "videos")
    preprocess(
        listing, root / "shards", EncodeOptions(f"60x{SIZE}"), partial(write_shards_locally, workers=2), shard_size=8
    )
    return read_dataset(root / "shards")


@pytest.fixture
def recipe():
    """Two epochs of 6 steps."""
    return load_recipe("demo", (*TINY, "optim.epochs=2", "train.checkpoint_every=2", "train.validate_every=0"))


@pytest.fixture(scope="session")
def pytorchvideo():
    """pytorchvideo's networks."""
    if importlib.util.find_spec("pytorchvideo") is None:
        pytest.skip("pytorchvideo is not installed")
    return pytorchvideo_hub()
