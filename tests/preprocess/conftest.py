"""Videos to be preprocessed in a process that is interrupted, and what an uninterrupted run makes of them."""

import pytest

from tests.preprocess.preprocess_command import Command, tree


@pytest.fixture(scope="session")
def ten_videos(video, tmp_path_factory):
    root = tmp_path_factory.mktemp("videos")
    for name in ("a", "b"):
        (root / name).mkdir()
        for i in range(4):
            (root / name / f"{i}.mp4").write_bytes(video("h264.mp4").read_bytes())
        (root / name / "damaged.mp4").write_bytes(video("h264.mp4").read_bytes()[:-400])
    return root


@pytest.fixture(scope="session")
def uninterrupted(ten_videos, tmp_path_factory):
    data = tmp_path_factory.mktemp("data")
    assert Command(ten_videos, data, workers=1).end() == (0, "")
    return tree(data)
