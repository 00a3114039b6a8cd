"""Segments of untrimmed videos: the frames that are theirs, and what the loaders hand out of them."""

import itertools
import json
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipelines import EvalLoader, Sampling, TrainLoader
from pipelines.segments import read_segments
from tests.pipelines.synthetic import a_row, index_alone, preprocessed, render

CPU = torch.device("cpu")


def segments_of(root, rows, metadata=None):
    found = read_segments(index_alone(root, rows, metadata).split("train"))
    return [tuple(found[i]) for i in range(len(found))]


@pytest.mark.parametrize(
    ("segment", "frames"),
    [
        # 25 frames/s: frame k is shown from k/25 s on.
        ((0.0, 4.0), range(100)),
        ((1.0, 2.0), range(25, 50)),
        ((1.01, 2.01), range(26, 51)),
        # 0.28 · 25 is 7.000000000000001.
        ((0.28, 0.56), range(7, 14)),
        ((1.01, 1.02), range(25, 26)),
        ((1.03, 1.05), range(26, 27)),
        ((3.99, 3.999), range(99, 100)),
        ((3.0, 9.0), range(75, 100)),
        ((7.0, 9.0), range(99, 100)),
        ((-2.0, 0.1), range(3)),
        ((-2.0, -1.0), range(1)),
    ],
)
def test_a_segment_has_the_frames_that_begin_in_it(tmp_path, segment, frames):
    row = a_row(0, 100, segments=((2, *segment),))
    assert segments_of(tmp_path, [row]) == [(0, 2, frames[0], len(frames))]


milliseconds = st.lists(st.integers(0, 8000), min_size=1, max_size=8)


@given(milliseconds, st.integers(1, 200), st.sampled_from([(25, 1), (30000, 1001)]))
def test_segments_that_meet_share_no_frame_and_lose_none(tmp_path_factory, times, frames, rate):
    num, den = rate
    cuts = [Fraction(time, 1000) for time in (0, *sorted(times), 10**6)]
    parts = list(itertools.pairwise(cuts))
    segments = tuple((i, float(begin), float(end)) for i, (begin, end) in enumerate(parts))
    row = a_row(0, frames, segments=segments, fps_num=num, fps_den=den, end=frames * den / num)
    found = segments_of(tmp_path_factory.mktemp("index"), [row])
    assert [label for _, label, _, _ in found] == list(range(len(parts)))
    for (_, _, first, count), (begin, end) in zip(found, parts, strict=True):
        shown = [k for k in range(frames) if begin <= k * Fraction(den, num) < end]
        # Where no frame begins, the one on the screen.
        on_screen = min(begin // Fraction(den, num), frames - 1)
        assert (first, count) == ((shown[0], len(shown)) if shown else (on_screen, 1))


def test_videos_without_segments_are_whole_and_numbers_follow_the_index(tmp_path):
    segments = [(), ((1, 0.0, 1.0), (2, 1.0, 2.0)), (), ((0, 0.4, 0.8),), ()]
    # More rows than lie in one record batch.
    rows = [a_row(i, 50, segments=segments[i % 5]) for i in range(1500)]
    found = segments_of(tmp_path, rows)
    wanted = []
    for i in range(1500):
        wanted += [[(i, 0, 0, 0)], [(i, 1, 0, 25), (i, 2, 25, 25)], [(i, 0, 0, 0)], [(i, 0, 10, 10)], [(i, 0, 0, 0)]][
            i % 5
        ]
    assert found == wanted


@pytest.mark.parametrize(
    ("about", "metadata", "frames"),
    [
        # A cut from 10 s on.
        ({"start": 10.0, "end": 14.0}, {}, None),
        # The container does not tell how long the last frame stays.
        ({"end": 99 / 25}, {}, range(25, 50)),
        # The frame rate varies: the container's says nothing of when a frame is shown.
        ({"end": 8.0}, {}, range(13, 25)),
        ({"fps_num": 0, "end": 8.0}, {}, range(13, 25)),
        # A rate that was asked for is kept, also where the last frame stayed long.
        ({"end": 8.0}, {"fps": 25.0}, range(25, 50)),
        # Nothing is known.
        ({"fps_num": 0, "end": 0.0}, {}, range(100)),
    ],
)
def test_where_a_frame_lies_in_time(tmp_path, about, metadata, frames):
    at = about.get("start", 0.0)
    row = a_row(0, 100, segments=((2, at + 1.0, at + 2.0),), **about)
    frames = frames or range(25, 50)
    assert segments_of(tmp_path, [row], metadata) == [(0, 2, frames[0], len(frames))]


COLOURS = {"red": (255, 0, 0), "lime": (0, 255, 0), "blue": (0, 0, 255), "gray": (128, 128, 128)}


@pytest.fixture(scope="module", params=[{}, {"fps": 10.0}, {"codec": "vp9", "quality": 20}], ids=["all", "fps", "vp9"])
def untrimmed(request, tmp_path_factory):
    """Two videos of 4 s whose colour changes every second, listed as ActivityNet lists them; one has no segments."""
    from preprocess.datasets.activitynet import list_activitynet

    root = tmp_path_factory.mktemp("untrimmed")
    pictures = np.repeat(np.array(list(COLOURS.values()), np.uint8), 25, axis=0)[:, None, None]
    for name in ("one", "two", "plain"):
        render(root / "videos" / f"v_{name}.mkv", np.tile(pictures, (1, 48, 64, 1)))
    segments = {
        "one": [("blue", 2, 3), ("red", 0, 1), ("gray", 3.4, 60)],
        "two": [("lime", 1.5, 1.501)],
        # It is none: its video is taken whole.
        "plain": [("gray", 3, 2)],
    }
    database = {
        name: {"subset": "training", "annotations": [{"label": c, "segment": [a, b]} for c, a, b in listed]}
        for name, listed in segments.items()
    }
    leaves = [{"nodeName": "Root", "parentName": None}, *({"nodeName": c, "parentName": "Root"} for c in COLOURS)]
    (root / "annotations.json").write_text(json.dumps({"taxonomy": leaves, "database": database}))
    listing = list_activitynet(root / "annotations.json", root / "videos")
    return preprocessed(listing, root / "shards", "64x48", **request.param)


def loaders(dataset, take, **more):
    options = {"global_batch": 2, "device": CPU, **more}
    train = TrainLoader(dataset, "train", take, seed=2, **options)
    yield itertools.islice(train, 3 * train.steps_per_epoch)
    yield EvalLoader(dataset, "train", take, **options)


@pytest.mark.parametrize("units", [1, 3])
def test_units_show_their_segment_alone(untrimmed, units):
    take = Sampling(units, 2, 8, 48, over="segment")
    keys = [row.key for row in untrimmed.split("train")]
    for batches in loaders(untrimmed, take):
        seen = []
        for batch in batches:
            pictures = batch.crops[0].permute(0, 2, 3, 4, 1).reshape(2, -1, 3).float()
            for place in range(2):
                row = batch.rows_B[place].item()
                if row < 0:
                    continue
                assert batch.keys[place] == keys[row]
                shown = untrimmed.classes[batch.labels_B[place]]
                seen.append((keys[row], shown))
                if keys[row] != "plain":
                    # Three for colours of 8 bits in YCbCr, and what coding does to a plain picture.
                    assert (pictures[place] - torch.tensor(COLOURS[shown])).abs().max() <= 6
        samples = [("one", "blue"), ("one", "gray"), ("one", "red"), ("plain", "gray"), ("two", "lime")]
        assert sorted(set(seen)) == samples
        assert len(seen) % len(samples) == 0


def test_each_segment_counts_once_on_any_number_of_ranks(untrimmed):
    take = Sampling(2, 2, 8, 48, over="segment")
    loader = TrainLoader(untrimmed, "train", take, global_batch=4, seed=0, device=CPU)
    assert loader.steps_per_epoch == 2
    assert [loader.videos_in(step) for step in range(4)] == [4, 1, 4, 1]
    for ranks in (1, 2, 4):
        options = {"global_batch": 4, "device": CPU, "ranks": ranks}
        of_ranks = [EvalLoader(untrimmed, "train", take, rank=rank, **options) for rank in range(ranks)]
        assert {len(loader) for loader in of_ranks} == {2}
        labels = [label for loader in of_ranks for batch in loader for label in batch.labels_B.tolist() if label >= 0]
        assert sorted(untrimmed.classes[label] for label in labels) == ["blue", "gray", "gray", "lime", "red"]
