"""DALI's own ways to read whole files: that they give what is planned, and say why where they cannot."""

from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
import torch

from benchmarks.comparison import Contender, measure, psnr
from benchmarks.contenders import our_loader
from benchmarks.dali_routes import DaliReader, DaliWholeFiles
from benchmarks.routes import OurLoader
from benchmarks.turns import RouteFailed, take_turn
from tests.benchmarks.small_videos import SAME_PICTURES_DB

VP9 = "VP9 GOP 8"


def of_route(route, work, count):
    return [given.pictures.numpy().copy() for given in islice(route.batches(work), count)]


def test_pictures_of_whole_files(datasets, files, work):
    turn = take_turn(DaliWholeFiles("DALI", files[VP9]), work)
    ours = take_turn(OurLoader("v4d", datasets["vp9"].root), work)
    assert turn.first.shape == ours.first.shape == (2 * 3 * 2, 48, 48, 3)
    assert psnr(turn.first, ours.first) > SAME_PICTURES_DB


@pytest.mark.parametrize(("frames", "stride"), [(2, 5), (3, 1), (1, 8)])
def test_reader_gives_the_planned_batches_and_begins_again(frames, stride, files, work):
    # Two batches are listed. An epoch is two, and the third is of other frames.
    work = replace(work, sampling=replace(work.sampling, frames=frames, stride=stride))
    planned = of_route(DaliWholeFiles("DALI", files[VP9]), work, 3)
    read = of_route(DaliReader("reader", files[VP9], experimental=True), work, 5)
    assert all(np.array_equal(read[number], planned[number % 2]) for number in range(5))
    assert not np.array_equal(planned[0], planned[2])


def test_list_is_as_long_as_a_turn(files, work):
    longer = replace(work, seconds=0.1)
    planned = of_route(DaliWholeFiles("DALI", files[VP9]), longer, 3)
    read = of_route(DaliReader("reader", files[VP9], experimental=True), longer, 4)
    assert all(np.array_equal(*pair) for pair in zip(read, [*planned, planned[0]], strict=True))


def test_reader_takes_no_unit_that_is_longer_than_its_video(files, work):
    short = replace(work, sampling=replace(work.sampling, stride=100))
    with pytest.raises(RouteFailed, match=r"takes evenly spaced frames only, and '[ab]/[0-5]' is too short for that"):
        take_turn(DaliReader("reader", files[VP9], experimental=True), short)


def test_reader_takes_no_path_with_a_space(files, work, tmp_path):
    copies = []
    for file in files[VP9]:
        copies.append(tmp_path / f"a copy of {file.name}")
        copies[-1].write_bytes(file.read_bytes())
    with pytest.raises(RouteFailed, match=r"its lists take no path with a space in it: .*/a copy of "):
        take_turn(DaliReader("reader", tuple(copies), experimental=True), work)


@pytest.mark.parametrize("route", [DaliWholeFiles, DaliReader])
def test_route_that_fails_is_a_line_that_says_so(route, datasets, work, tmp_path):
    broken = tmp_path / "broken.ivf"
    broken.write_bytes(b"no video")
    options = {"experimental": True} if route is DaliReader else {}
    rival = Contender("DALI", {"2 threads": route("DALI", (broken,) * 6, **options)}, 0)
    ours, theirs = measure([our_loader(datasets["mjpeg"], work), rival], work, 1)
    assert theirs.problem.startswith("DALI: ") and "\n" not in theirs.problem and len(theirs.problem) > 20
    assert theirs.videos_per_s is None and ours.videos_per_s > 0


def test_reader_of_a_gpu_without_one(files, work):
    if torch.cuda.is_available():
        pytest.skip("there is one")
    with pytest.raises(RouteFailed, match=r"^DALI: .*GPU"):
        take_turn(DaliReader("reader", files["H.264 GOP 8"], experimental=False), work)
