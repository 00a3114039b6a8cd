"""The order of samples: a permutation per epoch, the same on any number of ranks."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.order import rank_slice, steps_per_epoch, train_order

samples = st.integers(1, 300)
seeds = st.integers(0, 2**63 - 1)


@given(samples, seeds, st.integers(0, 1000))
def test_an_epoch_is_a_permutation(count, seed, epoch):
    assert sorted(train_order(count, seed, epoch)) == list(range(count))


def test_epochs_and_seeds_differ():
    orders = {tuple(train_order(100, seed, epoch)) for seed in range(5) for epoch in range(5)}
    assert len(orders) == 25


def test_the_order_is_the_same_for_ever():
    # Written down once: a run resumed with a later version of NumPy must get the same batches.
    assert train_order(8, seed=7, epoch=3).tolist() == [2, 4, 0, 6, 7, 5, 1, 3]


@given(samples, st.integers(1, 6), st.sampled_from([1, 2, 4, 8]), seeds)
def test_ranks_cover_every_sample_once(count, share, ranks, seed):
    global_batch = share * ranks
    order = train_order(count, seed, 0)
    seen = []
    for step in range(steps_per_epoch(count, global_batch)):
        parts = [rank_slice(order, step, global_batch, rank, ranks) for rank in range(ranks)]
        rows = np.concatenate([rows for rows, _ in parts])
        valid = np.concatenate([valid for _, valid in parts])
        whole_rows, whole_valid = rank_slice(order, step, global_batch, 0, 1)
        np.testing.assert_array_equal(rows, whole_rows)
        np.testing.assert_array_equal(valid, whole_valid)
        seen += rows[valid].tolist()
    assert seen == order.tolist()


def test_a_batch_that_does_not_divide_is_refused():
    with pytest.raises(ValueError, match="10 does not divide over 4"):
        rank_slice(np.arange(5), 0, 10, 0, 4)
