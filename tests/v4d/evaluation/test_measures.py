"""Measures against computations that share nothing with them, and the dump that they are taken from."""

import json
import resource

import numpy as np
import pyarrow as pa
import pytest
import torch
from torchmetrics.functional.classification import multiclass_accuracy

from preprocess.errors import DataError
from v4d.evaluation.bootstrap import RESAMPLES, Resamples, interval
from v4d.evaluation.measures import measures_of, multi_label_measures, ranks, single_label_measures
from v4d.evaluation.scores_file import read_scores, write_scores

VIDEOS, CLASSES = 300, 7


@pytest.fixture
def dump():
    """Scores that are somewhat right, of classes of very different sizes; class 6 has no video, 20 have no label."""
    draws = np.random.default_rng(3)
    labels_N = draws.choice(CLASSES, VIDEOS, p=[0.4, 0.3, 0.1, 0.1, 0.07, 0.03, 0]).astype(np.int32)
    logits_NK = draws.normal(size=(VIDEOS, CLASSES)) * 1.5
    logits_NK[np.arange(VIDEOS), labels_N] += 1.5
    labels_N[-20:] = -1
    scores_NK = torch.from_numpy(logits_NK).softmax(dim=1).numpy().astype(np.float32)
    return scores_NK, labels_N


def counted(scores_NK, labels):
    """Top-1, top-5, accuracy by class, confusion and calibration error, video by video in plain Python."""
    rows = [(s, label) for s, label in zip(scores_NK.tolist(), labels.tolist(), strict=True) if label >= 0]
    order = [sorted(range(len(s)), key=lambda k: (-s[k], k)) for s, _ in rows]
    confusion = [[0] * CLASSES for _ in range(CLASSES)]
    for ranked, (_, label) in zip(order, rows, strict=True):
        confusion[label][ranked[0]] += 1
    by_class = {k: confusion[k][k] / sum(confusion[k]) for k in range(CLASSES) if sum(confusion[k])}
    error = 0.0
    for low in range(15):
        inside = [
            (max(s), ranked[0] == label)
            for ranked, (s, label) in zip(order, rows, strict=True)
            if low / 15 <= max(s) < (low + 1) / 15
        ]
        error += abs(sum(hit - confidence for confidence, hit in inside)) / len(rows)
    return {
        "top1": sum(ranked[0] == label for ranked, (_, label) in zip(order, rows, strict=True)) / len(rows),
        "top5": sum(label in ranked[:5] for ranked, (_, label) in zip(order, rows, strict=True)) / len(rows),
        "mean_class_accuracy": sum(by_class.values()) / len(by_class),
        "calibration_error": error,
    }, (confusion, by_class)


def test_figures_are_what_a_count_by_hand_gives(dump):
    scores_NK, labels_N = dump
    measures = single_label_measures(scores_NK, labels_N)
    figures, (confusion, by_class) = counted(scores_NK, labels_N)
    assert measures.videos == VIDEOS - 20
    assert {name: figure.value for name, figure in measures.figures.items()} == pytest.approx(figures, abs=1e-6)
    # They are four different things.
    assert len({round(value, 3) for value in figures.values()}) == 4
    assert measures.confusion_KK.tolist() == confusion
    assert measures.videos_K.tolist() == [sum(row) for row in confusion]
    assert measures.videos_K[6] == 0
    assert np.isnan(measures.accuracy_K[6])
    assert dict(enumerate(measures.accuracy_K[:6])) == pytest.approx(by_class)


def test_the_intervals_are_those_of_a_slow_bootstrap(dump):
    scores_NK, labels_N = (of[:-20] for of in dump)
    draws = np.random.default_rng(11)
    resampled = []
    for _ in range(600):
        drawn = draws.integers(len(labels_N), size=len(labels_N))
        resampled.append(counted(scores_NK[drawn], labels_N[drawn])[0])
    for name, figure in single_label_measures(scores_NK, labels_N).figures.items():
        slow = np.array([of[name] for of in resampled])
        if name == "calibration_error":
            slow += figure.value - slow.mean()
        assert (figure.low, figure.high) == pytest.approx(tuple(np.quantile(slow, (0.025, 0.975))), abs=0.02)
        assert figure.low < figure.value < figure.high


def test_ranks_are_those_of_torchmetrics(dump):
    scores_NK, labels_N = (of[:-20] for of in dump)
    ranks_N = ranks(scores_NK, labels_N[:, None])
    scores, labels = torch.from_numpy(scores_NK)[..., None], torch.from_numpy(labels_N.astype(np.int64))[:, None]
    for k in range(1, CLASSES):
        theirs = multiclass_accuracy(scores, labels, CLASSES, average="micro", top_k=k, multidim_average="samplewise")
        assert (ranks_N < k).tolist() == theirs.bool().tolist()


def test_ties_go_to_the_lower_class():
    scores_NK = np.array([[0.2, 0.2, 0.2, 0.2, 0.2]] * 3, np.float32)
    assert ranks(scores_NK, [(0,), (3,), (4, 2)]).tolist() == [0, 3, 2]


def test_a_video_of_several_labels_is_right_with_any_of_them():
    scores_NK = np.array([[9, 8, 7, 6, 5, 4, 3], [1, 2, 3, 4, 5, 6, 7], [0, 1, 0, 0, 0, 0, 0.5]], np.float32)
    labels = [(6, 4), (0, 6), ()]
    measures = multi_label_measures(scores_NK, labels)
    assert measures.videos == 2
    assert {name: figure.value for name, figure in measures.figures.items()} == {"top1": 0.5, "top5": 1.0}
    assert measures.videos_K.tolist() == [1, 0, 0, 0, 1, 0, 2]
    assert measures.confusion_KK is None
    assert measures.as_document("abcdefg")["per_class"][6] == {"class": "g", "videos": 2}


def test_with_softmax_the_first_of_several_labels_is_the_class_and_any_is_right(tmp_path):
    scores_NK = np.array([[0.1, 0.7, 0.2], [0.6, 0.3, 0.1], [0.2, 0.3, 0.5]], np.float32)
    about = {"class_names": ["a", "b", "c"], "loss": "softmax"}
    write_scores(tmp_path / "scores.arrow", ["x", "y", "z"], [(0, 1), (0,), (1,)], list(scores_NK), about)
    measures = measures_of(read_scores(tmp_path))
    assert measures.figures["top1"].value == pytest.approx(2 / 3)
    assert measures.figures["mean_class_accuracy"].value == pytest.approx((1 / 2 + 0) / 2)
    assert measures.confusion_KK.tolist() == [[1, 1, 0], [0, 0, 1], [0, 0, 0]]


def test_of_a_single_class_every_video_is_right():
    measures = single_label_measures(np.full((3, 1), 0.75, np.float32), np.array([0, 0, -1]))
    assert (measures.videos, measures.top_k, measures.confusion_KK.tolist()) == (2, 1, [[2]])
    figures = {name: (figure.value, figure.low, figure.high) for name, figure in measures.figures.items()}
    assert figures == {**dict.fromkeys(("top1", "top5", "mean_class_accuracy"), (1, 1, 1)),
                       "calibration_error": (0.25, 0.25, 0.25)}  # fmt: skip


def test_logits_are_made_shares_for_their_calibration(dump):
    scores_NK, labels_N = dump
    logits_NK = np.log(scores_NK) + 5
    of_logits = single_label_measures(logits_NK, labels_N, are_logits=True).figures
    of_shares = single_label_measures(scores_NK, labels_N).figures
    assert {n: f.value for n, f in of_logits.items()} == pytest.approx(
        {n: f.value for n, f in of_shares.items()}, abs=1e-5
    )


def test_a_share_above_one_by_a_rounding_is_one():
    scores_NK = np.array([[1 + 1e-6, 0], [0, 1 + 1e-6]], np.float32)
    assert single_label_measures(scores_NK, np.array([0, 0])).figures["calibration_error"].value == pytest.approx(0.5)


def test_without_labels_there_are_no_figures():
    scores_NK = np.full((3, 4), 0.25, np.float32)
    for measures in (single_label_measures(scores_NK, np.full(3, -1)), multi_label_measures(scores_NK, [()] * 3)):
        assert measures.videos == 0
        assert all(np.isnan(figure.value) for figure in measures.figures.values())
        assert "NaN" not in json.dumps(measures.as_document("abcd"))


def test_resamples_draw_as_many_videos_as_there_are_the_same_with_the_same_seed():
    columns_NM = np.eye(50)
    means = Resamples(50, seed=4).means(columns_NM)
    assert means.shape == (RESAMPLES, 50)
    np.testing.assert_allclose(means.sum(axis=1), 1)
    # A draw is one of 50, so its count is binomial: variance 49/50.
    assert (means * 50).var() == pytest.approx(0.98, abs=0.03)
    np.testing.assert_array_equal(means, Resamples(50, seed=4).means(columns_NM))
    assert not np.array_equal(means, Resamples(50, seed=5).means(columns_NM))


def test_group_means_are_those_of_each_resample():
    groups_N, column_N = np.array([3, 1, 3, 3, 8]), np.array([1.0, 0, 0, 1, 1])
    counts_RN = np.rint(Resamples(5).means(np.eye(5)) * 5).astype(int)
    by_hand = []
    for counts_N in counts_RN:
        drawn = np.repeat(np.arange(5), counts_N)
        by_hand.append(np.mean([column_N[drawn][groups_N[drawn] == g].mean() for g in set(groups_N[drawn])]))
    np.testing.assert_allclose(Resamples(5).group_means(column_N[:, None], groups_N)[:, 0], by_hand)


def test_an_interval_holds_95_of_100_resamples():
    assert interval(np.arange(1001.0)) == (25.0, 975.0)


def test_a_dump_gives_back_all_labels(tmp_path, dump):
    scores_NK, labels_N = dump
    names = ['quo"te', "<b>", "ü" * 300, "d", "e", "f", "g"]
    labels = [(label, 0) if label > 0 else (label,) if label == 0 else () for label in labels_N.tolist()]
    keys = [f"v/{i}\n" for i in range(VIDEOS)]
    for loss, expected in (("softmax", {"top1", "top5", "mean_class_accuracy", "calibration_error"}),
                           ("sigmoid", {"top1", "top5", "mean_average_precision", "hit1", "hit3"})):  # fmt: skip
        write_scores(tmp_path / "scores.arrow", keys, labels, list(scores_NK), {"class_names": names, "loss": loss})
        read = read_scores(tmp_path)
        assert read.keys == tuple(keys)
        assert read.labels == tuple(labels)
        np.testing.assert_array_equal(read.labels_N, labels_N)
        np.testing.assert_array_equal(read.scores_NK, scores_NK)
        assert read.class_names == tuple(names)
        assert set(measures_of(read).figures) == expected


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"labels": [(7,)]}, "holds labels that are none of its 2 classes"),
        ({"scores": [np.array([np.nan, 0], np.float32)]}, "holds scores that are no numbers"),
        ({"scores": [np.zeros(3, np.float32)]}, "holds no scores of v4d eval, or is damaged"),
        ({"about": {}}, "holds no scores of v4d eval, or is damaged: 'class_names'"),
    ],
)
def test_a_dump_that_cannot_be_is_named(tmp_path, change, said):
    given = {"keys": ["a"], "labels": [(1,)], "scores": [np.zeros(2, np.float32)], "about": {"class_names": ["x", "y"]}}
    write_scores(tmp_path / "scores.arrow", **{**given, **change})
    with pytest.raises(DataError, match=rf"scores\.arrow {said}"):
        read_scores(tmp_path)


def test_a_dump_that_does_not_fit_on_the_disk_is_named(tmp_path):
    path, scores = tmp_path / "scores.arrow", [np.zeros(2, np.float32)] * 1000
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, before[1]))
    try:
        with pytest.raises(OSError, match=rf"File too large: '{path}'"):
            write_scores(path, ["a"] * 1000, [(1,)] * 1000, scores, {"class_names": ["x", "y"]})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list(tmp_path.iterdir()) == []


def test_a_dump_of_an_older_version_is_named(tmp_path):
    table = pa.table({"key": ["a"], "label": [0], "scores": [[1.0]]}).replace_schema_metadata({"v4d": "{}"})
    with pa.OSFile(str(tmp_path / "scores.arrow"), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    with pytest.raises(DataError, match="of an older version of v4d: evaluate again"):
        read_scores(tmp_path)


@pytest.mark.parametrize(("hits", "videos"), [(0, 1), (1, 1), (0, 5), (7, 9), (50, 100), (999, 1000)])
def test_intervals_of_classes_are_wilsons(hits, videos):
    """Both ends are shares that lie as far from what was seen as 1.96 of their own standard deviations."""
    right = np.arange(videos) < hits
    scores = np.where(right[:, None], [[1.0, 0.0, 0.0]], [[0.0, 1.0, 0.0]])
    measures = single_label_measures(scores, np.zeros(videos, int))
    found = measures.accuracy_of(0)
    assert found.value == hits / videos
    for end in (found.low, found.high):
        if 0 < end < 1:
            deviation = np.sqrt(end * (1 - end) / videos)
            assert abs(found.value - end) == pytest.approx(1.959964 * deviation, rel=1e-5)
    assert found.low < found.high and found.low <= found.value <= found.high
    assert (found.low == 0, found.high == 1) == (hits == 0, hits == videos)
    assert measures.accuracy_of(1) is None
    document = measures.as_document("abc")["per_class"]
    assert document[0] == {"class": "a", "videos": videos, "accuracy": found.value, "interval": [found.low, found.high]}
    assert (document[1]["accuracy"], document[1]["interval"]) == (None, None)
