"""Runs of networks that were never trained, on the small dataset of ordered actions, and its videos as files."""

import pytest

from preprocess.index import read_dataset
from tests.v4d.untrained import untrained_run


@pytest.fixture(scope="session")
def videos(dataset):
    """The files that the dataset was made of, of its validation split, in the order of its index."""
    root = dataset.root.parent / "videos"
    return [root / row.source for row in read_dataset(dataset.root).split("val")]


@pytest.fixture
def run(dataset, recipe, tmp_path):
    """A run of the recipe, tmp_path/runs/run, with 4D blocks."""
    return untrained_run(tmp_path / "runs" / "run", recipe, dataset)
