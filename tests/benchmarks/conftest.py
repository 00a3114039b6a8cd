"""Small videos, datasets of them, and what a route is to do with them."""

import pytest

from benchmarks.files import H264_SHORT, VP9_SHORT, encoded, originals
from benchmarks.turns import Work
from pipelines import Sampling
from tests.benchmarks.small_videos import make_datasets, make_videos


@pytest.fixture(scope="session")
def videos(tmp_path_factory, run_ffmpeg):
    """See make_videos; 96×64."""
    return make_videos(tmp_path_factory.mktemp("bench"), run_ffmpeg, "96x64")


@pytest.fixture(scope="session")
def datasets(videos, tmp_path_factory):
    """The videos at three quarters of the height, so that pictures of a file and of a shard differ in shape."""
    return make_datasets(tmp_path_factory.mktemp("shards"), videos, "96x48")


@pytest.fixture(scope="session")
def files(datasets, videos, tmp_path_factory):
    """The files of the rows, by what they are."""
    data, folder = datasets["mjpeg"], tmp_path_factory.mktemp("encoded")
    index = data.split("train")
    made = {of.name: encoded(data, index, videos, of, folder, 2) for of in (H264_SHORT, VP9_SHORT)}
    return {"originals": originals(index, videos)} | made


@pytest.fixture
def work(datasets):
    return Work(datasets["mjpeg"].root, "train", Sampling(3, 2, 5, 48), 4, "cpu", 2, 0.01)
