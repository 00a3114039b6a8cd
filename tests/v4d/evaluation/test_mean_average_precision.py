"""Mean average precision: by hand, against a loop over predictions as the benchmark goes, and against torchmetrics."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchmetrics.functional.classification import multilabel_average_precision, multilabel_precision_recall_curve

from v4d.evaluation.mean_average_precision import Ranking


def slowly(predictions, truth):
    """The average precision of a class, in plain numbers: ``predictions`` are (video, score), ``truth`` its videos.

    Each prediction is taken by itself, those with the same score in the order that is worst.
    """
    hits, best = set(), {}
    for at, (video, score) in enumerate(predictions):
        if video in truth and (video not in best or score > predictions[best[video]][1]):
            best[video] = at
    hits = set(best.values())
    ranked = sorted(range(len(predictions)), key=lambda at: (-predictions[at][1], at in hits))
    found, curve = 0, []
    for rank, at in enumerate(ranked, 1):
        found += at in hits
        curve.append((found / len(truth), found / rank))
    area, before = 0.0, 0.0
    for recall in sorted({recall for recall, _ in curve if recall}):
        area += (recall - before) * max(precision for there, precision in curve if there >= recall)
        before = recall
    return area


def by_class_slowly(scores, labels, videos):
    averages = []
    for k in range(scores.shape[1]):
        predictions = [(v, s) for v, s in zip(videos.tolist(), scores[:, k].tolist(), strict=True) if s == s]
        truth = set(np.flatnonzero(labels[:, k]).tolist())
        averages.append(slowly(predictions, truth) if truth else np.nan)
    return averages


def test_by_hand():
    """Six videos, three classes, of which no video has the third; nobody labelled the last video."""
    labels = np.array([[1, 0, 0], [0, 1, 0], [1, 1, 0], [0, 1, 0], [1, 0, 0], [0, 0, 0]], bool)
    scores = np.array(
        [[0.9, 0.5, 0.1], [0.8, 0.5, 0.9], [0.7, 0.5, 0.2], [0.6, 0.4, 0.3], [0.5, 0.9, 0.4], [0.8, 0.1, 0.6]]
    )
    # Class 0: right, wrong, wrong (unlabelled), right, wrong, right: 1/1, 2/4, 3/6.
    # Class 1: wrong; of three at 0.5 first the wrong one, then the two that are right: 1/3, 2/4; then right: 3/5, which
    # is the best from every recall on.
    found = Ranking(scores, labels).average_precisions()
    assert found[:2] == pytest.approx([(1 + 1 / 2 + 1 / 2) / 3, 3 / 5])
    assert np.isnan(found[2])
    assert Ranking(scores, labels).mean() == pytest.approx((2 / 3 + 3 / 5) / 2)
    # Left out instead of wrong, the last video spoils nothing: 1/1, 2/3, 3/5.
    assert Ranking(scores[:5], labels[:5]).average_precisions()[0] == pytest.approx((1 + 2 / 3 + 3 / 5) / 3)


def test_a_pair_that_is_predicted_twice_is_right_once():
    labels = np.array([[True], [True], [False]])
    # Video 0 at 0.9 and 0.8, video 1 at 0.7, video 2 at 0.1.
    ranking = Ranking(np.array([[0.8], [0.9], [0.7], [0.1]]), labels, np.array([0, 0, 1, 2]))
    assert ranking.mean() == pytest.approx((1 + 2 / 3) / 2)
    # Twice with one score: what is no first hit comes before the hit.
    ranking = Ranking(np.array([[0.8], [0.8], [0.7]]), labels, np.array([0, 0, 1]))
    assert ranking.mean() == pytest.approx(2 / 3)


def test_a_video_that_is_not_predicted_is_missed():
    labels = np.array([[True], [True]])
    assert Ranking(np.array([[0.8]]), labels, np.array([0])).mean() == 0.5
    assert Ranking(np.array([[0.8], [np.nan]]), labels).mean() == 0.5
    assert Ranking(np.zeros((0, 1)), labels, np.zeros(0, np.int64)).mean() == 0.0
    assert np.isnan(Ranking(np.zeros((2, 3)), np.zeros((2, 3), bool)).mean())


def test_a_score_that_tells_nothing_apart_earns_the_share_of_its_class():
    labels = np.eye(4, dtype=bool)[[0, 0, 0, 1, 1, 2, 3, 3]]
    assert Ranking(np.full((8, 4), 0.5), labels).average_precisions().tolist() == [3 / 8, 2 / 8, 1 / 8, 2 / 8]


@given(st.integers(0, 2**32), st.integers(1, 24), st.integers(1, 5), st.sampled_from([2, 5, 1000]), st.booleans())
@settings(max_examples=150, deadline=None)
def test_it_is_what_a_slow_loop_gives(seed, videos, classes, distinct, repeated):
    draws = np.random.default_rng(seed)
    labels = draws.random((videos, classes)) < draws.choice([0.1, 0.4, 0.9])
    of_rows = draws.integers(videos, size=2 * videos) if repeated else draws.permutation(videos)
    scores = draws.integers(distinct, size=(len(of_rows), classes)) / distinct
    scores[draws.random(scores.shape) < 0.1] = np.nan
    ranking = Ranking(scores, labels, of_rows)
    np.testing.assert_allclose(ranking.average_precisions(), by_class_slowly(scores, labels, of_rows), atol=1e-12)
    # Counting a video some times is as good as having it so often.
    times = draws.integers(3, size=videos)
    copies = np.repeat(np.arange(videos), times)
    rows = [(row, copy) for row, video in enumerate(of_rows) for copy in np.flatnonzero(copies == video)]
    again = scores[[row for row, _ in rows]], labels[copies], np.array([copy for _, copy in rows], np.int64)
    np.testing.assert_allclose(ranking.average_precisions(times[None])[0], by_class_slowly(*again), atol=1e-12)


@given(st.integers(0, 2**32), st.sampled_from([3, 1000]))
@settings(max_examples=30, deadline=None)
def test_the_order_of_videos_does_not_matter(seed, distinct):
    draws = np.random.default_rng(seed)
    labels, scores = draws.random((30, 4)) < 0.3, draws.integers(distinct, size=(30, 4)) / distinct
    order = draws.permutation(30)
    found = Ranking(scores[order], labels[order]).average_precisions()
    np.testing.assert_array_equal(found, Ranking(scores, labels).average_precisions())


def random_case(seed, distinct=1000):
    draws = np.random.default_rng(seed)
    labels = draws.random((60, 5)) < 0.3
    labels[0] = True
    return draws.integers(distinct, size=(60, 5)) / distinct, labels


@pytest.mark.parametrize("distinct", [4, 1000])
def test_it_is_the_interpolated_area_of_torchmetrics_curve(distinct):
    scores, labels = random_case(distinct, distinct)
    curves = multilabel_precision_recall_curve(torch.from_numpy(scores), torch.from_numpy(labels).long(), 5)
    expected = []
    for precision, recall in zip(*curves[:2], strict=True):
        # From the lowest threshold, with the highest recall, to the highest.
        best = np.maximum.accumulate(precision[:-1].numpy())
        expected.append((-np.diff(recall.numpy()) * best).sum())
    np.testing.assert_allclose(Ranking(scores, labels).average_precisions(), expected, atol=1e-5)


def test_torchmetrics_mean_is_another_one_unless_precision_never_rises():
    scores, labels = random_case(0)
    ours = Ranking(scores, labels).average_precisions()
    theirs = multilabel_average_precision(
        torch.from_numpy(scores), torch.from_numpy(labels).long(), 5, average="none"
    ).numpy()
    assert (theirs <= ours + 1e-6).all()
    assert (ours - theirs).max() > 0.01
    # All that is right, but for one, comes before all that is wrong: precision falls from 1.
    falling = np.where(labels, scores + 1, scores - 1)
    falling[np.flatnonzero(labels[:, 0])[0], 0] = -5
    ours = Ranking(falling, labels).average_precisions()
    theirs = multilabel_average_precision(
        torch.from_numpy(falling / 10 + 0.6), torch.from_numpy(labels).long(), 5, average="none"
    ).numpy()
    assert ours[0] < 1
    np.testing.assert_allclose(ours, theirs, atol=1e-6)


def test_what_does_not_go_together_is_refused():
    with pytest.raises(ValueError, match="labels"):
        Ranking(np.zeros((2, 3)), np.zeros((2, 4), bool))
    with pytest.raises(ValueError, match="videos 0 to 1"):
        Ranking(np.zeros((3, 4)), np.zeros((2, 4), bool))
