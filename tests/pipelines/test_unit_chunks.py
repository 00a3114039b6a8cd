"""All of a long video in chunks: which units there are, that each comes once, and what is bad."""

import itertools
import logging

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines import EvalLoader, Sampling, UntrimmedLoader
from pipelines.sampling import centred_units
from pipelines.unit_chunks import ChunkSamples
from preprocess.errors import DataError
from tests.pipelines.broken import copied, place_of
from tests.pipelines.synthetic import CountingShards, a_row, index_alone
from tests.preprocess.damage import flip

CPU = torch.device("cpu")


def planned(root, rows, take=None, rate=1.0, least=1, batch=2, which=None):
    dataset = index_alone(root, rows)
    plan = ChunkSamples(dataset, "train", take or Sampling(4, 2, 3, 32), rate, least, batch, 3)
    if which is not None:
        plan.take(which)
    return plan


@pytest.mark.parametrize(
    ("frames", "about", "rate", "least", "units"),
    [
        # 25 frames/s.
        (250, {}, 1.0, 1, 10),
        (262, {}, 1.0, 1, 10),
        (263, {}, 1.0, 1, 11),
        (250, {}, 0.5, 1, 5),
        (250, {}, 2.0, 1, 20),
        (15000, {}, 1.0, 1, 600),
        # Short videos have as many as the network wants.
        (25, {}, 1.0, 4, 4),
        (1, {}, 1.0, 4, 4),
        (5, {}, 1.0, 1, 1),
        # No more than frames.
        (10, {}, 100.0, 4, 10),
        # The frame rate varies: 8 seconds.
        (100, {"end": 8.0}, 1.0, 1, 8),
        (240, {"fps_num": 24000, "fps_den": 1001, "start": 3.0, "end": 13.01}, 1.0, 1, 10),
        # Nobody knows: 25 frames a second.
        (100, {"fps_num": 0, "end": 0.0}, 1.0, 1, 4),
    ],
)
def test_how_many_units_a_video_has(tmp_path, frames, about, rate, least, units):
    plan = planned(tmp_path, [a_row(0, frames, **about)], rate=rate, least=least)
    assert {plan.chunk(number).units for number in range(len(plan))} == {units}


@given(st.lists(st.integers(1, 2000), min_size=1, max_size=12), st.integers(1, 9), st.integers(1, 5), st.data())
@settings(max_examples=60, deadline=None)
def test_every_unit_comes_once_and_in_order(tmp_path_factory, lengths, in_a_row, batch, data):
    rows = [a_row(i, frames) for i, frames in enumerate(lengths)]
    which = data.draw(st.lists(st.integers(0, len(rows) - 1), min_size=1, unique=True))
    take = Sampling(in_a_row, 2, 3, 32, fit_stride=data.draw(st.booleans()), fit_to=4)
    plan = planned(tmp_path_factory.mktemp("index"), rows, take, least=3, batch=batch, which=which)
    places = list(itertools.chain(*plan.batches(0)))
    assert len(places) == plan.steps_per_epoch * batch
    found = {}
    for place in places:
        chunk, sample = plan.chunk(place.number), plan.sample(place)
        if not place.valid:
            continue
        assert sample.row_number == chunk.row_number
        assert sample.labels == rows[chunk.row_number].labels
        assert 1 <= chunk.length <= in_a_row
        units = sample.frames.reshape(in_a_row, 2)
        assert (units[chunk.length :] == units[chunk.length - 1]).all()
        of_video = found.setdefault(chunk.row_number, [])
        assert chunk.first == len(of_video)
        of_video += units[: chunk.length].tolist()
        assert chunk.is_last == (len(of_video) == chunk.units)
    assert list(found) == which
    for row, units in found.items():
        frames = lengths[row]
        count = max(3, int(frames / 25 + 0.5))
        assert units == centred_units(frames, count, 2, take.stride_for(frames)).tolist()


def test_a_unit_is_where_it_would_be_among_all():
    every = centred_units(1000, 37, 4, 8)
    for which in ([0], [36], [5, 6, 7], [7, 7, 3]):
        np.testing.assert_array_equal(centred_units(1000, 37, 4, 8, np.array(which)), every[which])


def test_no_videos_are_no_batches(tmp_path):
    plan = planned(tmp_path, [a_row(0, 100)], which=[])
    assert list(plan.batches(0)) == []


@pytest.fixture(params=["mjpeg", "vp9"])
def sound(request, preprocessed):
    """80×64 pixels at 25 frames/s: 1, 7, 33, 60 and 128 frames, of two classes."""
    return preprocessed("80x64", codec=request.param)


def load(dataset, in_a_row=3, batch=2, max_bad=0.0, rows=None, **options):
    """(key, labels, units of each crop) of each video that was loaded, and the loader."""
    take = Sampling(in_a_row, 2, 3, 64)
    options = {"units_per_second": 4.0, "least_units": 2, "device": CPU, **options}
    loader = UntrimmedLoader(dataset, "val", take, batch=batch, max_bad=max_bad, **options)
    found = []
    for made, chunks in loader if rows is None else loader.at(rows):
        assert len(chunks) <= batch
        for place, chunk in enumerate(chunks):
            if made.rows_B[place] < 0:
                found.append((chunk, None, (), []))
                continue
            assert made.rows_B[place] == chunk.row_number
            units = slice(place * in_a_row, place * in_a_row + chunk.length)
            found.append((chunk, made.keys[place], made.all_labels[place], [crop[units] for crop in made.crops]))
    return found, loader


@pytest.mark.parametrize(("in_a_row", "batch"), [(3, 2), (40, 1)])
def test_pictures_are_those_of_all_units_at_once(sound, in_a_row, batch):
    found, loader = load(sound, in_a_row, batch)
    index = sound.split("val")
    assert loader.samples == len(index) == 10
    for number, of_video in itertools.groupby(found, lambda entry: entry[0].row_number):
        chunks, keys, labels, crops = zip(*of_video, strict=True)
        assert set(keys) == {index[number].key}
        assert set(labels) == {index[number].labels}
        units = chunks[0].units
        assert units == max(2, min(index[number].frames, int(index[number].frames / 25 * 4 + 0.5)))
        if index[number].frames not in (1, 33, 128):
            continue
        at_once = EvalLoader(sound, "val", Sampling(units, 2, 3, 64), global_batch=1, device=CPU)
        expected = next(itertools.islice(at_once, number, None)).crops
        for crop, parts in zip(expected, zip(*crops, strict=True), strict=True):
            assert torch.equal(torch.cat(parts), crop)


def test_each_packet_is_read_once(preprocessed):
    dataset = preprocessed("80x64")
    store = CountingShards(dataset.root / "val")
    # The units of a second, which do not overlap.
    found, _ = load(dataset, units_per_second=2.0, store=store)
    assert store.reads == sum(
        len(set(centred_units(row.frames, max(2, round(row.frames / 25 * 2)), 2, 3).ravel().tolist()))
        for row in dataset.split("val")
    )
    assert len(found) > 10


def test_some_rows_alone(sound):
    every, _ = load(sound)
    some, _ = load(sound, rows=[7, 2])
    wanted = [entry for row in (7, 2) for entry in every if entry[0].row_number == row]
    assert [entry[:3] for entry in some] == [entry[:3] for entry in wanted]
    for (*_, now), (*_, before) in zip(some, wanted, strict=True):
        assert all(map(torch.equal, now, before))


def test_a_damaged_chunk_is_masked_and_its_video_counts_once(preprocessed, tmp_path, caplog):
    dataset = preprocessed("80x64")
    every, _ = load(dataset)
    damaged = copied(dataset, tmp_path / "damaged")
    number, row = next((i, row) for i, row in enumerate(dataset.split("val")) if row.frames == 128)
    units = centred_units(128, 20, 2, 3)
    # In two chunks, and of the first of them two frames.
    for frame in (units[0, 0], units[1, 1], units[19, 0]):
        path, begin, _ = place_of(damaged, "val", number, int(frame))
        flip(path, begin + 40)
    with caplog.at_level(logging.WARNING, "pipelines"):
        found, loader = load(damaged, max_bad=0.1)
    assert loader.bad.in_epoch == 1
    assert [record.getMessage() for record in caplog.records if "left out" in record.getMessage()] == [
        record.getMessage() for record in caplog.records if f"'{row.key}'" in record.getMessage()
    ]
    bad = {entry[0].first for entry in found if entry[1] is None}
    assert bad == {entry[0].first for entry in every if entry[0].row_number == number and entry[0].first in (0, 17)}
    for now, before in zip(found, every, strict=True):
        assert now[0] == before[0]
        assert now[1] is None or all(map(torch.equal, now[3], before[3]))
    # What stands in for it comes from all of the split.
    found, loader = load(damaged, max_bad=0.1, rows=[number])
    assert {entry[0].first for entry in found if entry[1] is None} == bad
    assert loader.bad.in_epoch == 1
    with pytest.raises(DataError, match=r"1 of 10 videos cannot be loaded, more than --max-bad 0\.05"):
        load(damaged, max_bad=0.05)


def test_a_split_without_videos_is_named(tmp_path):
    with pytest.raises(DataError, match=r"the split 'train' of .* holds no video"):
        planned(tmp_path, [])
