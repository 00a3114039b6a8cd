"""The plan of every batch: the same on any number of ranks, each sample once, nothing drawn twice alike."""

import math
from itertools import chain, islice

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines import Sampling
from pipelines.order import stand_in
from pipelines.samples import EvalSamples, TrainSamples
from tests.pipelines.synthetic import a_row, index_alone

SAMPLING = {over: Sampling(2, 3, 4, 64, over=over) for over in ("video", "segment")}
RANKS = (1, 2, 4, 8)
counts, seeds = st.integers(1, 60), st.integers(0, 2**63 - 1)
global_batches = st.integers(1, 4).map(lambda share: 8 * share)
overs = st.sampled_from(sorted(SAMPLING))


@pytest.fixture(scope="module")
def dataset_of(tmp_path_factory):
    """A function: a dataset of so many videos of 1 to 90 frames, with 0 to 3 segments."""
    made = {}

    def of(count):
        if count not in made:
            rows = []
            for number in range(count):
                segments = tuple((i, 0.3 * i, 0.3 * i + 0.5) for i in range(number % 4))
                rows.append(a_row(number, 1 + 7 * number % 90, segments=segments))
            made[count] = index_alone(tmp_path_factory.mktemp("index"), rows)
        return made[count]

    return of


def planned(plan, first_step, steps):
    """What comes to the places of some batches."""
    return [[plan.sample(place) for place in batch] for batch in islice(plan.batches(first_step), steps)]


def said(sample):
    about = sample.row.key, sample.row_number, sample.label, sample.frames.tolist(), sample.crops
    return (*about, *sample.place)


def samples_over(count, over):
    return count if over == "video" else sum(max(1, number % 4) for number in range(count))


@settings(max_examples=40)
@given(counts, global_batches, st.integers(0, 10**6), seeds, overs)
def test_training_is_the_same_on_any_number_of_ranks(dataset_of, count, global_batch, epoch, seed, over):
    dataset, total = dataset_of(count), samples_over(count, over)
    of_ranks = {}
    for ranks in RANKS:
        plans = [
            TrainSamples(dataset, "train", SAMPLING[over], global_batch, seed, rank, ranks) for rank in range(ranks)
        ]
        assert {len(plan) for plan in plans} == {total}
        assert {plan.steps_per_epoch for plan in plans} == {-(-total // global_batch)}
        steps = plans[0].steps_per_epoch
        shares = [planned(plan, epoch * steps, steps) for plan in plans]
        assert {len(batch) for share in shares for batch in share} == {global_batch // ranks}
        of_ranks[ranks] = [[said(sample) for sample in chain(*parts)] for parts in zip(*shares, strict=True)]
    assert all(of_ranks[ranks] == of_ranks[1] for ranks in RANKS)
    numbers = [number for batch in of_ranks[1] for *_, number, valid in batch if valid]
    assert sorted(numbers) == list(range(total))
    # Only the end of the last batch does not count.
    flat = [valid for batch in of_ranks[1] for *_, valid in batch]
    assert flat == [True] * total + [False] * (len(flat) - total)


@settings(max_examples=40)
@given(counts, global_batches, overs)
def test_evaluation_counts_each_sample_once_on_any_number_of_ranks(dataset_of, count, global_batch, over):
    dataset, total = dataset_of(count), samples_over(count, over)
    for ranks in RANKS:
        plans = [EvalSamples(dataset, "train", SAMPLING[over], global_batch, 3, rank, ranks) for rank in range(ranks)]
        assert len({plan.steps_per_epoch for plan in plans}) == 1
        batches = [planned(plan, 0, None) for plan in plans]
        assert {len(of_rank) for of_rank in batches} == {plans[0].steps_per_epoch}
        in_order = [sample for parts in zip(*batches, strict=True) for sample in chain(*parts) if sample.place.valid]
        assert [sample.place.number for sample in in_order] == list(range(total))
        assert not any(crop.flip for sample in in_order for crop in sample.crops)


@given(counts, st.integers(0, 59), overs)
def test_frames_lie_in_their_sample(dataset_of, count, number, over):
    plans = (
        EvalSamples(dataset_of(count), "train", SAMPLING[over], 1, 1, 0, 1),
        TrainSamples(dataset_of(count), "train", SAMPLING[over], 1, 0, 0, 1),
    )
    for plan in plans:
        samples = [sample for (sample,) in planned(plan, 0, len(plan))]
        sample = min(samples, key=lambda sample: abs(sample.place.number - number))
        segments = [s for s in sample.row.segments if over == "segment"]
        low, high, label = 0, sample.row.frames, sample.row.label
        if segments:
            first_of_row = min(s.place.number for s in samples if s.row_number == sample.row_number)
            label, start, end = segments[sample.place.number - first_of_row]
            # At 25 frames/s; a segment behind the end has the last frame.
            low = min(math.ceil(start * 25 - 1e-6), high - 1)
            high = max(min(math.ceil(end * 25 - 1e-6), high), low + 1)
        assert sample.label == label
        assert sample.frames.min() >= low
        assert sample.frames.max() < high


def test_numbers_drawn_for_samples_and_epochs_differ(dataset_of):
    take = Sampling(4, 1, 1, 64)
    plan = TrainSamples(index_of_long_videos(dataset_of), "train", take, 1, 0, 0, 1)
    drawn = {tuple(sample.frames) for (sample,) in planned(plan, 0, 5 * len(plan))}
    assert len(drawn) == 5 * len(plan)


def index_of_long_videos(dataset_of):
    root = dataset_of(1).root.parent / "long"
    return index_alone(root, [a_row(number, 10_000) for number in range(40)])


@given(st.integers(1, 500), st.integers(0, 499))
def test_stand_ins_lead_through_all_samples(count, start):
    seen, at = [], start % count
    for _ in range(count):
        seen.append(at)
        at = stand_in(at, count)
    assert at == seen[0]
    assert sorted(seen) == list(range(count))


@pytest.mark.parametrize("over", sorted(SAMPLING))
def test_what_stands_in_is_the_same_on_any_number_of_ranks(dataset_of, over):
    found = []
    for ranks in RANKS:
        plans = [TrainSamples(dataset_of(30), "train", SAMPLING[over], 8, 5, rank, ranks) for rank in range(ranks)]
        shares = [[plan.sample(plan.instead_of(place)) for place in next(plan.batches(2))] for plan in plans]
        found.append([said(sample) for sample in chain(*shares)])
    assert all(stand_ins == found[0] for stand_ins in found)
    assert not any(valid for *_, valid in found[0])


def test_units_start_on_keyframes_of_their_segment(tmp_path):
    back = (np.arange(200) % 8 != 0).astype(np.uint8)
    rows = [a_row(number, 200, segments=((1, 1.0, 5.0), (2, 5.1, 5.2)), packet_back=back) for number in range(5)]
    dataset = index_alone(tmp_path, rows)
    take = Sampling(2, 3, 8, 64, over="segment", keyframe_starts=True)
    plan = TrainSamples(dataset, "train", take, 1, 0, 0, 1)
    starts = set()
    for (sample,) in planned(plan, 0, 40 * len(plan)):
        units = sample.frames.reshape(2, 3)
        if sample.label == 1:
            # Frames 25 to 124: the first unit's starts that fit are 25 to 58, the second's 75 to 108.
            assert (units[:, 1:] - units[:, :-1] == 8).all()
            starts.update(units[:, 0].tolist())
        else:
            # Frames 128 and 129.
            assert (units == 128).all()
    assert starts == {32, 40, 48, 56, 80, 88, 96, 104}
