"""Small videos, datasets of them, and what a route is to do with them."""

import subprocess
import sys
from functools import lru_cache

import pytest

from benchmarks.files import H264_SHORT, VP9_SHORT, encoded, originals
from benchmarks.turns import Work
from benchmarks.whole_files import NEEDS
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


@lru_cache
def loads(modules):
    """Whether modules are installed, with the libraries that they want; found out by another process."""
    return not subprocess.run([sys.executable, "-c", f"import {', '.join(modules)}"], capture_output=True).returncode


@pytest.fixture
def decoder(request):
    """A name of DECODERS; where it is not installed the test is skipped."""
    if not loads(NEEDS[request.param]):
        pytest.skip(f"{request.param} is not installed, or does not load")
    return request.param
