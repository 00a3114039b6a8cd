from pathlib import Path

import pytest

from preprocess.errors import UsageError
from preprocess.work_folder import choose_dataset, choose_videos, shards_of


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_one_folder_of_videos(here):
    with pytest.raises(UsageError, match="at data/NAME/videos: put them there, or name one with --videos"):
        choose_videos()
    (here / "data" / "fights" / "videos").mkdir(parents=True)
    (here / "data" / "other" / "annotations").mkdir(parents=True)
    assert choose_videos() == Path("data/fights/videos")
    (here / "data" / "other" / "videos").mkdir()
    with pytest.raises(UsageError, match=r"there are 2 .*--videos: data/fights/videos, data/other/videos$"):
        choose_videos()


def test_the_one_dataset(here):
    (here / "shards" / "begun").mkdir(parents=True)
    with pytest.raises(UsageError, match="at shards/NAME: make one with v4d preprocess, or name one with --data"):
        choose_dataset()
    (here / "shards" / "begun" / "dataset.json").touch()
    assert choose_dataset() == Path("shards/begun")


@pytest.mark.parametrize("videos", ["data/fights/videos", "fights", "data/fights/other/../videos/"])
def test_shards_go_by_the_name_of_the_videos(videos):
    assert shards_of(Path(videos)) == Path("shards/fights")
