"""An evaluation that is stopped, killed, or on several processes: the same dump, byte for byte."""

import io
import json
import os
import signal
import subprocess
import sys
import time
from unittest import mock

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from rich.console import Console

from cli import main
from preprocess.errors import DataError, V4dError
from tests.pipelines.broken import copied, place_of
from tests.preprocess.damage import flip
from tests.v4d.conftest import TINY
from tests.v4d.untrained import untrained_run
from v4d.checkpoint import find_checkpoint, load_checkpoint, save_checkpoint
from v4d.evaluation import evaluate as evaluation
from v4d.evaluation.evaluate import ACCURACY, Request, evaluate, evaluate_on_ranks
from v4d.evaluation.parts import Parts
from v4d.evaluation.protocols import Protocol
from v4d.evaluation.scores_file import SCORES, read_scores
from v4d.launch import Place, launch, this_place
from v4d.recipes.files import load_recipe

# Slow enough to be stopped on the way: 5 crops, mirrored too, and every combination of 12 units.
PROTOCOL = Protocol(units_infer=12, crops=10)
OPTIONS = ["--u-infer", "12", "--crops", "10", "--split", "train", "--batch", "1", "--gpus", "0"]


def request_of(run, out, **changes):
    return Request(run, out, **{"protocol": PROTOCOL, "split": "train", "batch": 1, **changes})


def evaluated(run, out, **changes):
    """The dump of an evaluation in this process, and what it said."""
    said = io.StringIO()
    evaluate(request_of(run, out, **changes), Place(torch.device("cpu")), Console(file=said, width=500))
    return (out / SCORES).read_bytes(), said.getvalue()


def started(run, out, *more):
    line = [sys.executable, "-m", "cli", "eval", str(run), "--out", str(out), *OPTIONS, *more]
    # Its results are to be those of this process, where torch has one thread.
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def parts_in(out):
    return len(list(out.glob("parts-*/part-*.arrow")))


def signalled(process, out, number, more_than=1):
    """Send a signal once there are more parts, and wait. Returns the exit code and what it said."""
    while parts_in(out) <= more_than:
        assert process.poll() is None, process.communicate()
        time.sleep(0.005)
    process.send_signal(number)
    output, errors = process.communicate(timeout=250)
    return process.returncode, output + errors


@pytest.fixture(scope="module")
def slow_run(dataset, tmp_path_factory):
    """A run, and the dump of a whole evaluation of it."""
    folder = tmp_path_factory.mktemp("slow")
    untrained_run(folder / "run", load_recipe("demo", TINY), dataset)
    return folder / "run", evaluated(folder / "run", folder / "whole")[0]


def test_killed_it_goes_on_with_two_processes_and_stopped_with_two_again(slow_run, tmp_path):
    (run, expected), out = slow_run, tmp_path / "out"
    code, _ = signalled(started(run, out), out, signal.SIGKILL)
    assert code == -signal.SIGKILL
    assert not (out / SCORES).exists()
    there = parts_in(out)
    code, said = signalled(started(run, out, "--procs", "2"), out, signal.SIGTERM, more_than=there)
    assert code == 130, said
    assert f"going on: {there} of 24 parts are there" in said
    assert "v4d: stopped: the same command goes on from there" in said
    assert "Traceback" not in said
    assert there < parts_in(out) < 24
    # Without the command, which would be one process more.
    accuracy = launch(evaluate_on_ranks, (request_of(run, out), 0), 0, 2)
    assert (accuracy.videos, accuracy.left_out) == (24, 0)
    assert (out / SCORES).read_bytes() == expected
    assert sorted(path.name for path in out.iterdir()) == [ACCURACY, SCORES]
    assert json.loads((out / ACCURACY).read_text())["videos"] == 24


def evaluate_what_is_there(runs, out):
    """Each process another run, as if it lay under one name on another disk of each node."""
    with this_place(0) as place, mock.patch.object(evaluation, "_SECONDS_BETWEEN_TRIES", 0.0):
        return evaluate(request_of(runs[place.rank], out), place, Console())


def test_processes_that_see_different_networks_do_not_go_on(slow_run, dataset, tmp_path, capfd):
    untrained_run(tmp_path / "other", load_recipe("demo", TINY), dataset, seed=9)
    with pytest.raises(V4dError, match="ended with exit code 1"):
        launch(evaluate_what_is_there, ((slow_run[0], tmp_path / "other"), tmp_path / "out"), 0, 2)
    assert "holds another network for each process: let it be one folder that all nodes see" in capfd.readouterr().err
    assert not (tmp_path / "out").exists()


def test_what_is_finished_is_not_done_again_unless_asked(run, tmp_path):
    quick = {"protocol": Protocol(units_infer=4, crops=1)}
    first, said = evaluated(run, tmp_path, **quick)
    assert "evaluated 24 videos in" in said
    before = (tmp_path / SCORES).stat()
    found, said = evaluated(run, tmp_path, **quick)
    assert said.endswith(f"{tmp_path} has this evaluation already\n")
    assert "evaluated" not in said
    assert (tmp_path / SCORES).stat().st_mtime_ns == before.st_mtime_ns
    found, said = evaluated(run, tmp_path, **quick, again=True)
    assert "evaluated 24 videos in" in said
    assert (tmp_path / SCORES).stat().st_ino != before.st_ino
    assert found == first
    line = f"eval {run} --out {tmp_path} --u-infer 4 --crops 1 --split train --batch 2 --gpus 0"
    said = CliRunner().invoke(main, line.split()).output
    assert f"{tmp_path} has this evaluation already: --again does it anew" in said
    # Another one takes its place.
    evaluated(run, tmp_path, protocol=Protocol("tsn", 4, crops=1))
    assert read_scores(tmp_path).about["protocol"] == "tsn"


def test_an_accuracy_that_is_gone_is_made_of_the_scores(run, tmp_path):
    quick = {"protocol": Protocol(units_infer=4, crops=1)}
    evaluated(run, tmp_path, **quick)
    content = (tmp_path / ACCURACY).read_bytes()
    (tmp_path / ACCURACY).unlink()
    assert "already" in evaluated(run, tmp_path, **quick)[1]
    assert (tmp_path / ACCURACY).read_bytes() == content


def test_parts_that_lack_a_video_are_made_again(dataset, run, tmp_path):
    data = copied(dataset, tmp_path / "data")
    quick = {"protocol": Protocol(units_infer=4, crops=1), "root": data.root}
    expected, _ = evaluated(run, tmp_path / "whole", **quick)
    offsets = [place_of(data, "train", 9, frame)[:2] for frame in range(data.split("train")[9].frames)]
    for shard, begin in offsets:
        flip(shard, begin + 9, 2)
    with pytest.raises(DataError, match="1 of 24 videos cannot be loaded"):
        evaluated(run, tmp_path / "out", **quick)
    assert list((tmp_path / "out").glob("parts-*/part-*.arrow"))
    assert not (tmp_path / "out" / SCORES).exists()
    for shard, begin in offsets:
        flip(shard, begin + 9, 2)
    found, said = evaluated(run, tmp_path / "out", **quick)
    assert "going on" in said
    assert found == expected


def test_scores_that_are_no_numbers_are_refused(run, tmp_path):
    trained = load_checkpoint(find_checkpoint(run))
    trained.model["classifier.bias"][2] = float("nan")
    save_checkpoint(tmp_path / "broken", trained)
    with pytest.raises(DataError, match=r"gives scores that are no numbers, first to '.+'"):
        evaluated(tmp_path / "broken", tmp_path / "out", protocol=Protocol(units_infer=4, crops=1))
    assert not (tmp_path / "out" / SCORES).exists()


def write(parts, number, videos):
    keys = [f"{number}-{i}" for i in range(videos)]
    parts.write(number, keys, [(0,)] * videos, [np.zeros(2, np.float32)] * videos)


@pytest.mark.parametrize(("videos", "batch", "count"), [(1, 4, 1), (24, 2, 12), (300, 4, 75), (20_000, 4, 79)])
def test_parts_hold_every_batch_once(videos, batch, count, tmp_path):
    parts = Parts(tmp_path, {}, videos, batch)
    assert parts.count == count
    assert [step for n in range(count) for step in parts.steps(n)] == [*range(-(-videos // batch))]
    assert sum(parts.videos(n) for n in range(count)) == videos


def test_parts_made_by_something_else_are_removed(tmp_path):
    old = Parts(tmp_path, {"step": 1}, 7, 2)
    with old.held(anew=False):
        write(old, 0, 2)
        write(old, 3, 1)
        assert old.missing() == [1, 2]
    # Here again, they are there.
    with Parts(tmp_path, {"step": 1}, 7, 2).held(anew=False):
        assert old.missing() == [1, 2]
    for new in (Parts(tmp_path, {"step": 2}, 7, 2), Parts(tmp_path, {"step": 2}, 7, 1)):
        with new.held(anew=False):
            assert len(new.missing()) == new.count
            assert len(list(tmp_path.iterdir())) == 1


def test_parts_of_others_that_are_at_work_stay(tmp_path):
    mine, other = Parts(tmp_path, {"step": 1}, 7, 2), Parts(tmp_path, {"step": 2}, 7, 2)
    with other.held(anew=False):
        write(other, 0, 2)
        with mine.held(anew=False):
            assert other.missing() == [1, 2, 3]
        with pytest.raises(DataError, match="is being written by another v4d eval: wait"):
            with Parts(tmp_path, {"step": 2}, 7, 2).held(anew=False):
                pass


def test_damaged_parts_and_those_with_too_many_videos_are_not_taken(tmp_path):
    parts = Parts(tmp_path, {}, 6, 2)
    with parts.held(anew=False):
        for number, videos in enumerate((2, 3, 1)):
            write(parts, number, videos)
        assert parts.missing() == [1, 2]
        with pytest.raises(DataError, match=r"part-000001\.arrow holds a video twice"):
            parts.join(tmp_path / SCORES, {"class_names": ["a", "b"]})
        write(parts, 1, 2)
        parts.join(tmp_path / SCORES, {"class_names": ["a", "b"]})
        assert read_scores(tmp_path).keys == ("0-0", "0-1", "1-0", "1-1", "2-0")
        (path,) = tmp_path.glob("parts-*/part-000000.arrow")
        path.write_bytes(path.read_bytes()[:100])
        assert parts.missing() == [0, 2]
        with pytest.raises(DataError, match="damaged"):
            parts.join(tmp_path / SCORES, {"class_names": ["a", "b"]})


def test_processes_are_for_the_cpu(run):
    done = CliRunner().invoke(main, ["eval", str(run), "--gpus", "1", "--procs", "2"])
    assert done.exit_code == 2
    assert "--procs is for the CPU" in done.output or "--gpus asks for 1" in done.output
