"""A loader goes on exactly where its state was taken, at any step and on any number of ranks, or says why not."""

import json
from dataclasses import fields, replace
from itertools import islice

import pytest
import torch

from pipelines import EvalLoader, Sampling, TrainLoader
from preprocess.errors import DataError, UsageError
from preprocess.index import read_dataset
from tests.pipelines.synthetic import CountingShards

CPU = torch.device("cpu")
TAKE = Sampling(2, 2, 4, 32)
GLOBAL_BATCH = 4


def loader_of(dataset, state=None, take=TAKE, split="train", **changes):
    loader = TrainLoader(dataset, split, take, **{"global_batch": GLOBAL_BATCH, "seed": 3, "device": CPU, **changes})
    if state is not None:
        loader.load_state_dict(state)
    return loader


def through_json(state):
    return json.loads(json.dumps(state))


def joined(shares):
    """The batches of all ranks as those of one: pixels, labels, rows and keys."""
    return [
        (
            torch.cat([part.x for part in parts]),
            torch.cat([part.labels_B for part in parts]),
            torch.cat([part.rows_B for part in parts]),
            [key for part in parts for key in part.keys],
        )
        for parts in zip(*shares, strict=True)
    ]


def assert_same(found, wanted):
    assert len(found) == len(wanted)
    for ours, theirs in zip(found, wanted, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(ours[:3], theirs[:3], strict=True))
        assert ours[3] == theirs[3]


@pytest.fixture(scope="module")
def whole(dataset):
    """The batches of two epochs, and the state after each."""
    loader = loader_of(dataset)
    steps = 2 * loader.steps_per_epoch
    states, batches = [through_json(loader.state_dict())], []
    for batch in islice(loader, steps):
        batches.append(batch)
        states.append(through_json(loader.state_dict()))
    # Ten videos in batches of four: the last one of an epoch is filled up.
    assert [int(batch.mask_B.sum()) for batch in batches] == [4, 4, 2] * 2
    return joined([batches]), states


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_dropping_the_first_steps_leaves_the_others_as_they_were(dataset, whole, ranks):
    batches, states = whole
    for dropped, state in enumerate(states):
        left = len(batches) - dropped
        shares = []
        for rank in range(ranks):
            loader = loader_of(dataset, state, rank=rank, ranks=ranks)
            assert loader.state_dict() == state
            shares.append(list(islice(loader, left)))
        assert_same(joined(shares), batches[dropped:])


def test_a_run_moved_to_other_ranks_at_every_step_is_the_run_that_was_not(dataset, whole):
    batches, states = whole
    state = states[0]
    for step, batch in enumerate(batches):
        ranks = (1, 2, 4)[step % 3]
        loaders = [loader_of(dataset, state, rank=rank, ranks=ranks) for rank in range(ranks)]
        assert_same(joined([[next(iter(loader))] for loader in loaders]), [batch])
        states_of_ranks = [through_json(loader.state_dict()) for loader in loaders]
        assert all(other == states_of_ranks[0] for other in states_of_ranks)
        state = states_of_ranks[0]
    assert state == states[-1]


def test_the_state_counts_what_was_handed_out_and_not_what_was_read_ahead(dataset, whole):
    batches, _ = whole
    store = CountingShards(dataset.root / "train")
    loader = loader_of(dataset, store=store)
    first = list(islice(loader, 1))
    one_batch = GLOBAL_BATCH * TAKE.units * TAKE.frames
    assert store.reads > one_batch
    state = through_json(loader.state_dict())
    assert (state["epoch"], state["step"]) == (0, 1)
    assert_same(joined([first + list(islice(loader_of(dataset, state), 2))]), batches[:3])
    # The loader itself, iterated anew, goes on there too.
    assert_same(joined([list(islice(loader, 2))]), batches[1:3])


def test_keyframe_starts_and_segments_resume_too(dataset):
    take = replace(TAKE, over="segment", keyframe_starts=True)
    loader = loader_of(dataset, take=take)
    batches = list(islice(loader, 4))
    resumed = loader_of(dataset, take=take)
    first = list(islice(resumed, 1))
    rest = list(islice(loader_of(dataset, through_json(resumed.state_dict()), take=take), 3))
    assert_same(joined([first + rest]), joined([batches]))


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_evaluation_on_several_ranks_is_evaluation_on_one(dataset, ranks):
    def batches(rank, ranks):
        loader = EvalLoader(dataset, "val", TAKE, global_batch=4, device=CPU, rank=rank, ranks=ranks)
        taken = list(loader)
        assert len(taken) == len(loader) == 3
        return taken

    alone = batches(0, 1)
    of_ranks = list(zip(*(batches(rank, ranks) for rank in range(ranks)), strict=True))
    for whole, parts in zip(alone, of_ranks, strict=True):
        for i, crop in enumerate(whole.crops):
            assert torch.equal(torch.cat([part.crops[i] for part in parts]), crop)
    keys = [key for parts in of_ranks for part in parts for key in part.keys if key]
    assert keys == [row.key for row in dataset.split("val")]


def refusal(kind, dataset, state, **changes):
    with pytest.raises(kind) as refused:
        loader_of(dataset, state, **changes)
    said = str(refused.value)
    assert "\n" not in said
    return said


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"seed": 4}, "begun with seed 3, not 4: its batches would differ"),
        ({"global_batch": 8}, "begun with global batch 4, not 8: its batches would differ"),
        ({"split": "val"}, "begun with split train, not val: its batches would differ"),
    ],
)
def test_what_batches_depend_on_may_not_change(dataset, whole, changes, says):
    assert says in refusal(UsageError, dataset, whole[1][2], **changes)


OTHER_SAMPLING = {
    "units": 3,
    "frames": 3,
    "stride": 5,
    "crop": 48,
    "fit_stride": True,
    "fit_to": 2,
    "scales": (1.0, 0.875),
    "over": "segment",
    "keyframe_starts": True,
    "clips": 1,
}


@pytest.mark.parametrize("name", [field.name for field in fields(Sampling)])
def test_no_part_of_the_sampling_may_change(dataset, whole, name):
    take = replace(TAKE, **{name: OTHER_SAMPLING[name]})
    said = refusal(UsageError, dataset, whole[1][2], take=take)
    assert said.startswith(f"the run was begun with {name.replace('_', ' ')} ")
    assert said.endswith("its batches would differ")


def test_a_changed_dataset_is_refused(dataset, whole, tmp_path):
    content = json.loads((dataset.root / "dataset.json").read_text())
    (tmp_path / "train").symlink_to(dataset.root / "train")
    (tmp_path / "dataset.json").write_text(json.dumps({**content, "rejected": 1}))
    said = refusal(DataError, read_dataset(tmp_path), whole[1][2])
    assert said == "the dataset is another one than the run was begun on, or has changed since"


@pytest.mark.parametrize("lost", ["sampling", "split", "epoch"])
def test_the_state_of_another_version_is_refused(dataset, whole, lost):
    state = {name: value for name, value in whole[1][2].items() if name != lost}
    assert "of another version of v4d" in refusal(DataError, dataset, state)
