"""Every route on a GPU: that its batches are there, and are those of our loader. No test looks at a time."""

from importlib.util import find_spec

import pytest
import torch

from benchmarks.comparison import psnr
from benchmarks.contenders import our_loader, rivals
from benchmarks.turns import Work, take_turn
from pipelines import Sampling
from tests.benchmarks.small_videos import SAME_PICTURES_DB, make_datasets, make_videos

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
DECODERS = {"decord": "decord", "torchcodec": "torchcodec", "PyAV": "av"}
FILES = ("originals", "H.264 GOP 250", "H.264 GOP 8")
ROUTES = [
    *(f"{decoder}, {file}" for decoder in DECODERS for file in FILES),
    *("DALI, VP9 GOP 8", "DALI, H.264 GOP 250", "DALI, H.264 GOP 8", "fn.experimental.readers.video, VP9 GOP 8"),
    *("fn.readers.video, H.264 GOP 250", "fn.readers.video, H.264 GOP 8"),
]


class Silent:
    def turn(self, route):
        pass

    def encoded(self, done, total):
        pass


@pytest.fixture(scope="module")
def compared(tmp_path_factory, run_ffmpeg):
    """The work, our own first pictures, and the contenders by name. A GPU decodes no VP9 below 128 pixels a side."""
    root = tmp_path_factory.mktemp("gpu")
    (root / "videos").mkdir()
    videos = make_videos(root / "videos", run_ffmpeg, "192x144")
    dataset = make_datasets(root, videos, "160x128")["mjpeg"]
    work = Work(dataset.root, "train", Sampling(3, 2, 5, 64), 4, "cuda", 2, 0.01)
    ours = take_turn(our_loader(dataset, work).ways[""], work).first
    return work, ours, {of.name: of for of in rivals(dataset, videos, root / "encoded", work, Silent())}


def test_routes_are_these(compared):
    assert set(compared[2]) == set(ROUTES)


@pytest.fixture
def named(name, compared):
    package = DECODERS.get(name.partition(",")[0])
    if package and not all(find_spec(needed) for needed in (package, "cv2")):
        pytest.skip(f"{package} is not installed")
    return compared[2][name]


@pytest.mark.parametrize("name", ROUTES)
def test_pictures(named, compared):
    work, ours, _ = compared
    for route in named.ways.values():
        turn = take_turn(route, work)
        assert turn.first.shape == ours.shape == (2 * 3 * 2, 64, 64, 3)
        assert psnr(turn.first, ours) > SAME_PICTURES_DB


@pytest.mark.parametrize("name", ROUTES)
def test_batches_come_on_the_gpu(named, compared):
    # The last way is that of threads: processes are forked, and this one knows CUDA by now.
    *_, route = named.ways.values()
    assert next(iter(route.batches(compared[0]))).pictures.device.type == "cuda"
