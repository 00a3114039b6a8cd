"""``v4d bench data`` as a person types it, and that every route does the same work. No test looks at a time."""

import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from dataclasses import replace
from itertools import islice
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from benchmarks.comparison import Contender, as_comparison, measure, missing_packages, psnr
from benchmarks.contenders import compare_with_rivals, our_loader
from benchmarks.files import H264_SHORT, encoded, few
from benchmarks.routes import OurLoader, WholeFiles, corners
from benchmarks.same_batches import SEED, packet_cost, planned
from benchmarks.turns import RouteFailed, take_turn
from benchmarks.whole_files import DECODERS
from cli import main
from pipelines import TrainLoader
from pipelines.crops import Crop
from preprocess.errors import DataError
from tests.benchmarks.small_videos import SAME_PICTURES_DB

FEW = [
    "--seconds",
    "0.01",
    "--repeats",
    "1",
    "--batch",
    "2",
    "--threads",
    "2",
    "--crop",
    "48",
    "--stride",
    "3",
    "--cpu",
]


def bench(*arguments, code=0):
    result = CliRunner().invoke(main, ["bench", "data", *map(str, arguments)])
    assert result.exit_code == code, (result.output, result.exception)
    assert "Traceback" not in result.output
    return result.output


def test_figures_of_our_loader_alone(datasets):
    said = json.loads(bench(datasets["mjpeg"].root, *FEW, "--json"))
    (ours,) = said["routes"]
    assert (said["codec"], said["batch"], said["stride"], said["videos"]) == ("mjpeg", 2, 3, 6)
    assert ours["ours"] and not ours["problem"] and said["with_model"] is None
    assert ours["decoded_per_used"] == 1
    assert ours["used_frames_per_s"] == pytest.approx(16 * ours["videos_per_s"])
    assert ours["rounds"] == [ours["videos_per_s"]]
    assert 0 < ours["bytes_read_per_video"] < ours["bytes_stored_per_video"]
    table = bench(datasets["mjpeg"].root, *FEW)
    assert "videos/s" in table and "CPU ms per video" in table and "1.00" in table


def test_cost_of_packets(datasets, work):
    epoch = replace(work, batch=6)
    for codec, gop in (("vp9", 8), ("mjpeg", 1)):
        cost, samples = packet_cost(datasets[codec], epoch), next(planned(datasets[codec], epoch))
        decoded = [{i for f in s.frames.tolist() for i in range(f // gop * gop, f + 1)} for s in samples]
        read = [s.row.packet_bytes[sorted(frames)].sum() for s, frames in zip(samples, decoded, strict=True)]
        used = sum(len(set(s.frames.tolist())) for s in samples)
        assert cost.decoded_per_used == pytest.approx(sum(map(len, decoded)) / used)
        assert cost.bytes_read == pytest.approx(np.mean(read))
        assert cost.bytes_stored == pytest.approx(np.mean([row.size for row in datasets[codec].split("train")]))
        assert (cost.decoded_per_used == 1) == (codec == "mjpeg")


def test_plan_is_the_loaders(datasets, work):
    data = datasets["mjpeg"]
    loader = TrainLoader(data, "train", work.sampling, global_batch=4, seed=SEED, device=torch.device("cpu"))
    for batch, samples in zip(islice(loader, 4), planned(data, work), strict=False):
        assert batch.keys == tuple(sample.row.key if sample.place.valid else "" for sample in samples)


@pytest.mark.parametrize("of", ["originals", "H.264 GOP 8"])
@pytest.mark.parametrize("workers", ["processes", "threads"])
@pytest.mark.parametrize("decoder", DECODERS, indirect=True)
def test_pictures_of_whole_files(decoder, workers, of, files, work):
    ours = take_turn(OurLoader("v4d", work.data), work)
    turn = take_turn(WholeFiles(decoder, decoder, files[of], workers, 2 if workers == "processes" else 1), work)
    assert turn.first.shape == ours.first.shape == (2 * 3 * 2, 48, 48, 3)
    assert psnr(turn.first, ours.first) > SAME_PICTURES_DB
    assert psnr(np.roll(turn.first, 1, axis=0), ours.first) < SAME_PICTURES_DB
    assert turn.videos % work.batch == 0 and turn.bytes_read > 0
    assert (turn.decoded is not None) == (decoder == "PyAV")
    if decoder == "PyAV":
        # At most the whole video, at least the frames that are used (two of a video may be one).
        assert 3 * turn.videos < turn.decoded <= 90 * turn.videos


def test_comparison_of_two_codecs(datasets, videos, work, tmp_path):
    heard = []
    progress = SimpleNamespace(turn=heard.append, encoded=lambda done, total: heard.append(f"{done}/{total}"))
    of = [datasets["mjpeg"], datasets["vp9"]]
    results = compare_with_rivals(of, videos, work, 1, 4, tmp_path, progress)
    assert [result.route for result in results[:2]] == ["v4d, JPEG packets", "v4d, VP9 GOP 8"]
    assert heard[0] == "1/12" and heard[-1] == results[-1].route
    for result in results[2:]:
        if not result.problem:
            assert set(result.ratios) == {"v4d, JPEG packets", "v4d, VP9 GOP 8"}
            for ours in results[:2]:
                assert result.ratios[ours.route] == pytest.approx(ours.videos_per_s / result.videos_per_s)
            assert result.psnr_db > 20
    for route in ("DALI, VP9 GOP 8", "fn.experimental.readers.video, VP9 GOP 8"):
        assert any(result.route == route and not result.problem for result in results)
    assert as_comparison(results).row_count == len(results)
    # The encodings are kept: nothing is made again.
    made = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.mp4")}
    assert len(made) == 8
    chosen = few(of[0], "train", 4, tmp_path / "few")
    encoded(chosen, chosen.split("train"), videos, H264_SHORT, next(tmp_path.glob("encoded-*")), 1)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.mp4")} == made


def test_missing_package_is_a_line_that_says_so(datasets, work, monkeypatch):
    route = WholeFiles("decord, originals", "decord", (), "threads")
    monkeypatch.setattr("benchmarks.comparison.find_spec", lambda name: None)
    problem = missing_packages(route)
    assert problem == "not installed: pip install decord opencv-python-headless"
    rival = Contender(route.name, {"2 threads": route}, 0, problem=problem)
    ours, theirs = measure([our_loader(datasets["mjpeg"], work), rival], work, 1)
    assert ours.videos_per_s > 0
    assert theirs.problem == problem and theirs.videos_per_s is None


@pytest.mark.parametrize("workers", ["processes", "threads"])
@pytest.mark.parametrize("decoder", DECODERS, indirect=True)
def test_file_that_ends_too_early(decoder, workers, files, work):
    shortest = WholeFiles(decoder, decoder, files["originals"][:1] * 6, workers)
    with pytest.raises(
        RouteFailed, match=r"has no frame \d+: it ends|Invalid frame index=\d+|Out of bound indices"
    ) as said:
        take_turn(shortest, work)
    assert "\n" not in str(said.value)


@pytest.mark.parametrize("decoder", ["PyAV"], indirect=True)
@pytest.mark.parametrize("change", ["hflip", "hue=h=90", "tpad=start=4:start_mode=clone,trim=end_frame={}"])
def test_route_with_other_pictures_is_not_compared(decoder, change, datasets, files, work, tmp_path, run_ffmpeg):
    others = []
    for row, file in zip(datasets["mjpeg"].split("train"), files["originals"], strict=True):
        others.append(tmp_path / f"{len(others)}.mp4")
        run_ffmpeg("-i", file, "-vf", change.format(row.frames), "-c:v", "libx264", "-qp", 8, others[-1])
    rival = Contender(decoder, {"": WholeFiles(decoder, decoder, tuple(others), "threads")}, 0)
    ours, theirs = measure([our_loader(datasets["mjpeg"], work), rival], work, 1)
    assert theirs.problem.startswith("its pictures are not those of v4d, JPEG packets: ")
    assert theirs.videos_per_s is None and ours.ratios == {}


@pytest.mark.parametrize(
    ("name", "why"),
    [("torchcodec", r"it wants FFmpeg's .* apt-get install ffmpeg\)"), ("decord", "there is no libavutil")],
)
def test_package_that_does_not_load_is_a_line_that_says_so(name, why, work, tmp_path, monkeypatch):
    (tmp_path / name).mkdir()
    (tmp_path / name / "__init__.py").write_text("raise RuntimeError('there is no libavutil\\nand more')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(RouteFailed, match=rf"^{name} is installed but does not load: {why}$"):
        take_turn(WholeFiles(name, name, (), "threads"), work)


def test_route_that_hangs_is_a_line_that_says_so(datasets, work, monkeypatch):
    monkeypatch.setattr("benchmarks.turns._PATIENCE_S", 0.3)
    with pytest.raises(RouteFailed, match=r"it gave nothing in 0\.31 s"):
        take_turn(OurLoader("v4d", work.data), work)


def test_ctrl_c_prints_what_is_measured(datasets, videos):
    """To the whole group of processes, as a terminal sends it, when the first of several turns is over."""
    program = "import sys; from cli import main; sys.argv[0] = 'v4d'; main()"
    options = [*FEW, "--seconds", "3", "--repeats", "3", "--limit", "2", "--json"]
    command = [sys.executable, "-c", program, "bench", "data", datasets["mjpeg"].root, *options]
    command += ["--compare", "--videos", videos]
    bench = subprocess.Popen(
        [*map(str, command)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, process_group=0
    )
    try:
        seen = set()
        while len(seen) < 2:
            assert bench.poll() is None, bench.communicate()
            for pid in Path(f"/proc/{bench.pid}/task/{bench.pid}/children").read_text().split():
                # It may end meanwhile.
                with suppress(FileNotFoundError, ProcessLookupError):
                    seen |= {pid} if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes() else set()
        os.killpg(bench.pid, signal.SIGINT)
        said, complained = bench.communicate()
    finally:
        bench.kill()
    assert (bench.returncode, complained.splitlines()[-1]) == (130, "v4d: stopped"), complained
    assert "Traceback" not in complained
    ours, *rest = json.loads(said)["routes"]
    assert ours["videos_per_s"] > 0 and len(ours["rounds"]) == 1
    assert "stopped before it had a turn" in [route["problem"] for route in rest]


def test_our_own_failure_ends_it(datasets, work, tmp_path):
    copy = few(datasets["mjpeg"], "train", 6, tmp_path / "copy")
    for link in (copy.root / "train").glob("*.tar"):
        link.unlink()
    with pytest.raises(RouteFailed, match="shard-0000"):
        measure([our_loader(copy, work)], work, 1)


def test_crop_in_pictures_of_another_size():
    assert corners(Crop(10, 4, 20, 8), 2.0, 1.5) == (20, 6, 60, 18)


def test_few_videos_of_a_dataset(datasets, tmp_path):
    chosen = few(datasets["mjpeg"], "train", 4, tmp_path / "few")
    keys = [row.key for row in datasets["mjpeg"].split("train")]
    assert [row.key for row in chosen.split("train")] == [keys[0], keys[1], keys[3], keys[5]]


def test_source_with_other_frames(datasets, videos, tmp_path):
    index = datasets["mjpeg"].split("train")
    moved = {row.source: other.source for row, other in zip(index, list(index)[::-1], strict=True)}
    for source, other in moved.items():
        (tmp_path / source).parent.mkdir(exist_ok=True)
        (tmp_path / source).symlink_to(videos / other)
    with pytest.raises(DataError, match="frames, the dataset has"):
        encoded(datasets["mjpeg"], index, tmp_path, H264_SHORT, tmp_path / "encoded", 1)


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["--compare"], 2, "--compare and --videos DIR go together"),
        (["--videos", "x"], 2, "--compare and --videos DIR go together"),
        (["--compare", "--videos", "nowhere"], 1, "is not there: --videos is to be the folder"),
        (["--split", "test"], 1, "has no split 'test'"),
        (["--seconds", "0"], 2, "0.0 is not in the range"),
        (["--with-model", "v4d_smal"], 2, "did you mean 'v4d_small'?"),
    ],
)
def test_a_mistake_gets_one_clear_line(arguments, code, says, datasets):
    assert says in bench(datasets["mjpeg"].root, "--cpu", *arguments, code=code)


def test_no_gpu(datasets):
    if torch.cuda.is_available():
        pytest.skip("there is one")
    assert "asks for 1: use --gpus 0" in bench(datasets["mjpeg"].root, "--gpu", code=2)


def test_with_model(datasets, tmp_path):
    recipe = tmp_path / "tiny.toml"
    recipe.write_text("[data]\nunits = 2\nframes = 2\ntrain_crop = 32\n[model]\nbase_width = 4\n")
    said = json.loads(bench(datasets["mjpeg"].root, *FEW, "--json", "--with-model", recipe))["with_model"]
    assert (said["recipe"], said["batch"]) == ("tiny", 2)
    assert said["ratio"] == pytest.approx(said["synthetic"] / said["loaded"])
    assert "tiny, batches of 2: " in bench(datasets["mjpeg"].root, *FEW, "--with-model", recipe)
