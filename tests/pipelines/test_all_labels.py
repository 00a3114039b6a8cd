"""Videos with several labels: what a batch has of them."""

from dataclasses import replace

import pytest

from pipelines import Batch, Sampling
from pipelines.samples import EvalSamples, Place, TrainSamples
from tests.pipelines.synthetic import a_row, index_alone


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """Three videos: of two labels, with none, and of three, the last with segments of its own."""
    rows = [
        a_row(0, 50, labels=(3, 1)),
        a_row(1, 50, labels=()),
        a_row(2, 50, labels=(0, 2, 4), segments=((2, 0.0, 0.5), (4, 0.5, 1.0))),
    ]
    return index_alone(tmp_path_factory.mktemp("index"), rows)


def labels_of(samples, valid=True):
    placed = [samples.sample(Place(0, number, valid)) for number in range(len(samples))]
    batch = Batch.of(placed, ())
    return batch.labels_B.tolist(), batch.all_labels, batch.targets_BK(5).tolist()


@pytest.mark.parametrize("plan", ["train", "test"])
def test_all_labels_of_videos(dataset, plan):
    take = Sampling(2, 3, 4, 64)
    samples = (
        TrainSamples(dataset, "train", take, 1, 0, 0, 1)
        if plan == "train"
        else EvalSamples(dataset, "train", take, 1, 1, 0, 1)
    )
    first, every, targets = labels_of(samples)
    assert first == [3, -1, 0]
    assert every == ((3, 1), (), (0, 2, 4))
    assert targets == [[0, 1, 0, 1, 0], [0] * 5, [1, 0, 1, 0, 1]]
    assert labels_of(samples, valid=False) == ([-1] * 3, ((),) * 3, [[0] * 5] * 3)


def test_a_segment_has_its_own_label(dataset):
    samples = EvalSamples(dataset, "train", Sampling(2, 3, 4, 64, over="segment"), 1, 1, 0, 1)
    assert labels_of(samples)[1] == ((3, 1), (), (2,), (4,))


def test_flips_change_each_label_or_are_not_made(dataset):
    changing = replace(dataset, flip={3: 2, 2: 3})
    keeping = replace(dataset, flip={1: -1})
    seen, kept = set(), set()
    for epoch in range(40):
        for of, found in ((changing, seen), (keeping, kept)):
            sample = TrainSamples(of, "train", Sampling(2, 3, 4, 64), 1, 0, 0, 1).sample(Place(epoch, 0, True))
            found.add((sample.crops[0].flip, sample.labels))
    assert seen == {(False, (3, 1)), (True, (2, 1))}
    assert kept == {(False, (3, 1))}
