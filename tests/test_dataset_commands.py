"""``v4d verify``, ``v4d index rebuild`` and ``v4d info`` as a person types them."""

import json
import shutil

import pytest
from click.testing import CliRunner

from cli import main
from preprocess.errors import DataError, UsageError
from preprocess.index import read_dataset, shard_name
from tests.preprocess.damage import flip, rewrite


@pytest.fixture
def data(small, tmp_path, monkeypatch):
    """A copy of a dataset as shards/small of the folder that the commands run in."""
    monkeypatch.chdir(tmp_path)
    return shutil.copytree(small, tmp_path / "shards" / "small")


def v4d(*arguments, code=0):
    """Run a command; what it printed."""
    result = CliRunner().invoke(main, ["--debug", *map(str, arguments)])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == code, result.output
    # Of what failed the line that says so, too.
    return result.output if code else result.stdout


def test_whole_dataset(data):
    assert v4d("verify").startswith("shards/small is as it was written: 8 videos, ")
    assert "every frame decodes" in v4d("verify", data, "--deep", "--workers", 1)
    assert json.loads(v4d("verify", data, "--json", "--workers", 1))["faults"] == []
    assert "small: folder, 3 classes" in v4d("info", data)
    assert json.loads(v4d("info", "--json"))["splits"]["train"]["videos"] == 5


def test_damaged_dataset(data):
    row = read_dataset(data).split("train")[0]
    flip(data / "train" / shard_name(0), row.offset)
    lines = v4d("verify", data, "--workers", 1, code=1).splitlines()
    assert lines[0] == (
        f"train/shard-00000.tar: video '{row.key}': the packet of frame 0 is damaged (CRC-32) at byte {row.offset}"
    )
    assert lines[1].startswith(f"{data} is damaged: 1 fault in 1 file; 8 videos, ")
    said = json.loads(v4d("verify", data, "--workers", 1, "--json", "--deep", code=1))
    assert [(fault["key"], fault["offset"]) for fault in said["faults"]] == [(row.key, row.offset)]
    with pytest.raises(DataError, match=f"video '{row.key}'"):
        v4d("index", "rebuild", data, "--workers", 1)


def test_frames_that_do_not_decode(data):
    """Whole by its checksums, as if it had been preprocessed so."""
    row = read_dataset(data).split("train")[0]

    def change(name, content):
        return content[:2] + b"\xff\xda" + content[4:] if name == f"{row.key}.mjpeg" else content

    rewrite(data / "train" / shard_name(0), change, signed=True)
    v4d("index", "rebuild", data, "--workers", 1)
    said = v4d("verify", data, "--workers", 1, "--deep", code=1)
    assert f"train/shard-00000.tar: video '{row.key}': frame 0 does not decode: " in said
    assert "1 fault" in said


def test_rebuilt_dataset(data):
    before = (data / "dataset.json").read_bytes()
    (data / "dataset.json").unlink()
    assert "dataset.json: the file is missing" in v4d("verify", data, "--workers", 1, code=1)
    assert "5 train, 3 val videos of 5 shards" in v4d("index", "rebuild", data)
    assert (data / "dataset.json").read_bytes() == before
    v4d("verify", data, "--workers", 1)


def test_no_dataset(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for command in (["verify"], ["index", "rebuild"], ["info"]):
        with pytest.raises(UsageError, match="there is no dataset at shards/NAME"):
            v4d(*command)
