"""A dataset that anything can learn."""

from functools import partial

import pytest

from preprocess.datasets.folder import list_folder
from preprocess.ffmpeg import EncodeOptions
from preprocess.index import read_dataset
from preprocess.local import write_shards_locally
from preprocess.run import preprocess


@pytest.fixture(scope="session")
def colours(tmp_path_factory, run_ffmpeg):
    """Six videos of 12 frames that are red, and six that are blue, a third of them in ``val``."""
    root = tmp_path_factory.mktemp("colours")
    for colour in ("red", "blue"):
        (root / colour).mkdir()
        source = f"color={colour}:size=48x32:rate=12:duration=1,noise=alls=20:allf=t"
        run_ffmpeg("-f", "lavfi", "-i", source, "-c:v", "libx264", "-threads", 1, root / colour / "0.mp4")
        for copy in range(1, 6):
            (root / colour / f"{copy}.mp4").hardlink_to(root / colour / "0.mp4")
    data = tmp_path_factory.mktemp("shards") / "colours"
    preprocess(list_folder(root, 0.33), data, EncodeOptions("48x32"), partial(write_shards_locally, workers=1))
    return read_dataset(data)
