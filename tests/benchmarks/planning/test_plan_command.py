"""``v4d plan`` as it is typed."""

import json

import pytest
from click.testing import CliRunner

from cli import main


def planned(*arguments, code=0):
    result = CliRunner().invoke(main, ["plan", "--videos", "3000", *arguments])
    assert result.exit_code == code, (result.output, result.exception)
    return result.output


def words(text):
    return " ".join(text.split())


def test_it_says_what_it_comes_to_and_what_binds():
    said = words(planned("--batch-per-gpu", "16", "--preprocess-cores", "64", "--cores-per-gpu", "16"))
    for part in (
        "3,000 videos of 300 frames, mjpeg, k400_v4d_r50, 8 h100 in 1 node",
        "disk 12.9 GB 4.28 MB a video",
        "24 steps of 128",
        "GPU <- binds 120 videos/s a GPU 120 videos/s a GPU 120 measured",
        "loader 120 videos/s a GPU 1,059 videos/s a GPU 1,059 extrapolated",
        "note: loader is extrapolated: from 4x4 frames (2118), by the number of frames",
        "docs/measurements.md, Training and loading, 2026-11-27, one H100",
        "binds first: GPU; what would help: more GPUs",
        "the least there can be (--efficiency 0.9",
    ):
        assert part in said


def test_what_is_typed_first_gets_an_answer():
    """No batch, no loader of 4x8 frames: of batches of 8 nothing was measured, of 16 there was."""
    said = words(planned())
    for part in (
        "47 steps of 64",
        "GPU <- binds 120 videos/s a GPU 120 videos/s a GPU 120 assumed",
        "CPU 0.197 cores a GPU not said extrapolated",
        "note: training step is assumed: that of batches of 16 on each GPU: 8 were not measured, and fewer videos at a",
        "training at least",
    ):
        assert part in said
    many = words(planned("--gpus", "1024", "--gpus-per-node", "8", code=2))
    assert "does not divide over 1024 processes: say how many videos of a step each GPU has" in many
    assert "each video once" in words(planned("--gpus", "1024", "--batch-per-gpu", "2", "--codec", "vp9"))


def test_json_has_the_same_and_where_each_figure_is_from():
    said = json.loads(planned("--batch-per-gpu", "16", "--json", "--disk", "0.001", "--storage", "500"))
    basis = {name: figure["basis"] for name, figure in said["figures"].items()}
    assert {name for name, of in basis.items() if of != "measured"} == {"loader", "loader's CPU"}
    assert basis["loader"] == "extrapolated"
    assert said["asked"] == {
        "videos": 3000,
        "frames": 300,
        "fps": 30.0,
        "codec": "mjpeg",
        "recipe": "k400_v4d_r50",
        "global_batch": 128,
        "epochs": 100,
        "efficiency": 1.0,
        "extrapolate": False,
        "gpu": "h100",
        "gpus": 8,
        "gpus_per_node": 8,
        "cores_per_gpu": None,
        "storage_bytes_per_s": 5e8,
        "disk_bytes": 1e9,
        "preprocess_cores": None,
    }
    assert said["bound_by"] == "disk"
    assert said["disk_bytes"] == pytest.approx(said["shard_bytes"] + said["index_bytes"])
    assert said["hours"] is None
    assert said["rehearsal"]["balance"]["steps"] == 24
    for figure in said["figures"].values():
        assert all(figure[name] for name in ("unit", "source", "machine", "date"))
    assert [limit["name"] for limit in said["limits"]] == ["GPU", "loader", "CPU", "storage"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--batch-per-gpu", "1"], "not measured: k400_v4d_r50 on h100 in batches of 1 on each, bf16, compiled"),
        (["--gpu", "tpu"], "not measured: training on a GPU 'tpu' (there are h100, h200)"),
        (["--gpus", "7"], "train.global_batch = 64 does not divide over 7 processes"),
        (["--gpus", "1025", "--batch-per-gpu", "16"], "plans go up to 10,000,000 videos and 1,024 GPUs"),
        (["--recipe", "k400_v4d_r51"], "there is no recipe 'k400_v4d_r51' (did you mean 'k400_v4d_r50'?)"),
        (["--codec", "av1"], "'av1' is not one of"),
        (["--efficiency", "1.5"], "1.5 is not in the range"),
        (["--measured", "nowhere.json"], "nowhere.json does not exist"),
    ],
)
def test_a_mistake_gets_one_clear_line(arguments, says):
    assert says in words(planned(*arguments, code=2))


def test_a_figure_of_ones_own_is_named():
    said = words(planned("--gpu", "my own <GPU>", "--videos-per-second-per-gpu", "250"))
    assert "training step 250 videos/s given, --videos-per-second-per-gpu" in said
    assert "at 250 videos/s a GPU" in said
    assert "8 my own <GPU> in 1 node" in said


def test_what_is_extrapolated_is_called_so():
    said = words(planned("--extrapolate", "--batch-per-gpu", "1"))
    assert "GPU <- binds 120 videos/s a GPU 120 videos/s a GPU 120 extrapolated" in said
    assert "times 1; that of batches of 16 on each GPU: 1 were not measured" in said


def test_it_explains_itself():
    said = CliRunner().invoke(main, ["plan", "--help"]).output
    assert "Example: v4d plan" in said
