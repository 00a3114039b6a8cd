"""Temporal window integration against a loop that does what the text says, and by hand."""

import math

import numpy as np
import pytest

from v4d.evaluation.window_integration import integrated


def slowly(scores):
    """In plain numbers: each scale, each class, each window."""
    classes = len(scores[0])
    total = [0.0] * classes
    for size in (1, 2, 4, 8, 16):
        stride = math.ceil(round(0.8 * size, 6))
        for k in range(classes):
            best = []
            begin = 0
            while begin < len(scores):
                best.append(max(float(row[k]) for row in scores[begin : begin + size]))
                begin += stride
            best.sort(reverse=True)
            kept = best[: max(15, int(len(best) / 4))]
            total[k] += sum(kept) / len(kept) / 5
    return total


@pytest.mark.parametrize("snippets", [1, 2, 3, 5, 7, 14, 15, 16, 17, 33, 60, 61, 64, 197, 600, 1001])
@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_it_is_what_a_slow_loop_gives(snippets, kind):
    scores = np.random.default_rng(snippets).normal(size=(snippets, 6)).astype(kind)
    scores[:, 5] = np.round(scores[:, 5])
    found = integrated(scores)
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, slowly(scores.tolist()), rtol=0, atol=1e-12)


def test_by_hand():
    # One class, 20 snippets of which the 18th alone shows it.
    scores = np.zeros((20, 1))
    scores[17] = 1.0
    # 1: 20 windows, 15 kept. 2, at stride 2: 10 windows. 4, at 4: 5. 8, at 7: from 0, 7 and 14 on, the last of 6
    # snippets. 16, at 13: from 0 and 13 on, the last of 7.
    assert integrated(scores)[0] == pytest.approx((1 / 15 + 1 / 10 + 1 / 5 + 1 / 3 + 1 / 2) / 5)


def test_one_snippet_is_its_own_score():
    scores = np.array([[0.25, -3.0, 7.0]], np.float32)
    assert integrated(scores).tolist() == [0.25, -3.0, 7.0]


def test_a_long_video_is_its_best_quarter():
    # At scale 1 the best 16 of 64; at the others 32, 16, 10 and 5 windows, of which no more than 15 count.
    scores = np.arange(64.0)[:, None]
    of_scales = [
        np.arange(48, 64).mean(),
        np.arange(1, 64, 2)[-15:].mean(),
        np.arange(3, 64, 4)[-15:].mean(),
        np.array([*range(7, 64, 7), 63, 63])[:10].mean(),
        np.array([15, 28, 41, 54, 63]).mean(),
    ]
    assert integrated(scores)[0] == pytest.approx(np.mean(of_scales))


def test_all_negative_scores_stay_so():
    """What is cut off at the end counts as nothing, and not as 0."""
    scores = np.full((5, 2), -2.0)
    np.testing.assert_allclose(integrated(scores), [-2.0, -2.0], rtol=0, atol=1e-15)


def test_no_snippet_is_an_error():
    with pytest.raises(ValueError, match="no snippet"):
        integrated(np.zeros((0, 3)))
