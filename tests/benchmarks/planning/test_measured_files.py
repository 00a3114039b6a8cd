"""Figures of the user's own machine, and what a plan says of videos beside what preprocessing makes of them."""

import json

import pytest
from click.testing import CliRunner

from benchmarks.planning.measured_files import read_measured
from benchmarks.planning.plan import plan
from benchmarks.preprocessing import make_clips
from cli import main
from preprocess.errors import DataError, UsageError
from tests.benchmarks.planning.planned import asked


def v4d(*arguments, code=0):
    result = CliRunner().invoke(main, [str(word) for word in arguments])
    assert result.exit_code == code, (result.output, result.exception)
    return result.output


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """Two clips of 10 s, 340x256 at 30/s."""
    root = tmp_path_factory.mktemp("clips")
    make_clips(root, 2)
    return root


@pytest.mark.parametrize("codec", ["mjpeg", "vp9"])
def test_a_plan_beside_what_preprocessing_makes(codec, clips, tmp_path):
    command = ("preprocess", "folder", "--videos", clips, "--out", tmp_path / "out", "--codec", codec)
    (tmp_path / "dry.json").write_text(v4d(*command, "--dry-run", "--json"))
    v4d(*command, "--workers", "1")
    tars = (tmp_path / "out" / "train").glob("*.tar")
    real = sum(path.stat().st_size for path in tars)
    wanted = asked(videos=2, frames=300, codec=codec)
    # The constants are of other content: street cameras, where these are of spots before a coloured background.
    by_constants = plan(wanted)
    assert real / 1.5 < by_constants.shard_bytes < real * 1.5
    replaced = read_measured([tmp_path / "dry.json"], wanted)
    measured = plan(wanted, replaced)
    # But for the first and the last member of a tar.
    assert measured.shard_bytes == pytest.approx(real, rel=0.02)
    assert measured.figures["size"].source == str(tmp_path / "dry.json")
    assert measured.bytes_read / by_constants.bytes_read == pytest.approx(
        measured.figures["size"].value / (by_constants.bytes_per_video - 1536), rel=0.01
    )
    dry = json.loads((tmp_path / "dry.json").read_text())
    assert measured.core_hours == pytest.approx(2 * dry["cpu_seconds"] / 2 / 3600)
    assert dry["cpu_seconds"] > 0


BENCH = {
    "data": "shards/a",
    "codec": "mjpeg",
    "device": "NVIDIA H100",
    "cores": 16,
    "batch": 64,
    "units": 4,
    "frames": 4,
    "stride": 8,
    "routes": [{"route": "v4d", "ours": True, "problem": "", "videos_per_s": 1500.0, "cpu_ms_per_video": 1.5}],
    "with_model": {"recipe": "v4d_resnet18", "batch": 64, "synthetic": 1000.0, "loaded": 900.0, "ratio": 1.1},
}


def written(path, document):
    path.write_text(json.dumps(document))
    return path


def test_figures_of_the_loader_and_the_model(tmp_path):
    path = written(tmp_path / "bench.json", BENCH)
    made = plan(asked(gpu="b200"), read_measured([path], asked(gpu="b200")))
    assert (made.videos_per_s, made.bound_by) == (900.0, "GPU")
    assert made.limits[1].allows == 1500.0
    assert made.limits[2].needs == pytest.approx(900 * 1.5e-3)
    assert {of.source for name, of in made.figures.items() if name in ("training step", "loader")} == {str(path)}
    later = written(tmp_path / "later.json", {**BENCH, "with_model": {**BENCH["with_model"], "loaded": 700.0}})
    assert read_measured([path, later], asked()).step.value == 700.0
    assert read_measured([written(tmp_path / "alone.json", {**BENCH, "with_model": None})], asked()).step is None


def test_it_reads_what_bench_data_prints(datasets, tmp_path):
    said = v4d("bench", "data", datasets["mjpeg"].root, "--cpu", "--seconds", "0.01", "--repeats", "1", "--json")
    path = tmp_path / "bench.json"
    path.write_text(said)
    wanted = asked()
    with pytest.raises(UsageError, match="it was measured on the CPU, and the plan is of GPUs"):
        read_measured([path], wanted)
    document = json.loads(said)
    replaced = read_measured([written(path, {**document, "device": "NVIDIA H100"})], wanted)
    assert replaced.loader.value == document["routes"][0]["videos_per_s"]
    assert replaced.loader.machine.startswith("NVIDIA H100, ")
    assert replaced.loader_cpu.value == document["routes"][0]["cpu_ms_per_video"]


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"codec": "vp9"}, "the codec is vp9 there, mjpeg in the plan"),
        ({"frames": 8}, "units x frames is 4x8 there, 4x4 in the plan"),
        ({"with_model": {**BENCH["with_model"], "recipe": "demo"}}, "the recipe is demo there, v4d_resnet18 in the"),
        ({"with_model": {**BENCH["with_model"], "batch": 8}}, "the batch of a GPU is 8 there, 64 in the plan"),
    ],
)
def test_what_was_measured_of_something_else_is_refused(changed, says, tmp_path):
    with pytest.raises(UsageError, match=says):
        read_measured([written(tmp_path / "bench.json", {**BENCH, **changed})], asked())


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("", "is no JSON"),
        ("[1]", "holds no figures"),
        ("{}", "is neither of v4d bench data --json nor"),
        ('{"routes": []}', "is neither"),
        (json.dumps({**BENCH, "routes": [{**BENCH["routes"][0], "videos_per_s": 0}]}), "is neither"),
        ('{"videos": {"train": 0}, "codec": "mjpeg", "tried": 0}', "tried no video"),
    ],
)
def test_a_file_of_something_else_gets_one_line(content, says, tmp_path):
    path = tmp_path / "figures.json"
    path.write_text(content)
    with pytest.raises(DataError, match=says):
        read_measured([path], asked())
