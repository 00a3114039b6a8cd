"""Two dumps compared: against counts by hand and a slow bootstrap, and what cannot be compared."""

import json
import math

import numpy as np
import pytest
from click.testing import CliRunner

from cli import main
from preprocess.errors import DataError, UsageError
from v4d.evaluation.compare import compare, find_dump
from v4d.evaluation.measures import measures_of
from v4d.evaluation.scores_file import SCORES, read_scores, write_scores

NAMES = ["a[b]", '"quo<ted>"', "ü" * 80, "rare"]
VIDEOS = 120


def dump(folder, keys, labels, scores_NK, **about):
    write_scores(folder / SCORES, keys, labels, list(scores_NK.astype(np.float32)), {"class_names": NAMES, **about})
    return folder


@pytest.fixture
def pair(tmp_path):
    """Two dumps of the same videos in other orders, B better than A; the last 5 videos have no label."""
    draws = np.random.default_rng(5)
    labels_N = draws.choice(4, VIDEOS, p=[0.5, 0.3, 0.15, 0.05])
    keys = [f"v/{i}" for i in range(VIDEOS)]
    labels = [(label,) if i < VIDEOS - 5 else () for i, label in enumerate(labels_N.tolist())]
    folders = []
    for name, strength in (("a", 1.0), ("b", 1.8)):
        scores_NK = draws.normal(size=(VIDEOS, 4))
        scores_NK[np.arange(VIDEOS), labels_N] += strength
        order = draws.permutation(VIDEOS)
        folder = dump(tmp_path / name, [keys[i] for i in order], [labels[i] for i in order], scores_NK[order])
        folders.append((folder, {keys[i]: scores_NK[i].astype(np.float32) for i in range(VIDEOS)}))
    return folders, {key: of[0] for key, of in zip(keys, labels, strict=True) if of}


def test_differences_are_what_a_count_by_hand_gives(pair):
    ((a, scores_a), (b, scores_b)), labels = pair
    result = compare(a, b)
    right = {
        key: (int(scores_a[key].argmax() == label), int(scores_b[key].argmax() == label))
        for key, label in labels.items()
    }
    assert result.videos == len(right) == VIDEOS - 5
    gains, losses = ({key for key, of in right.items() if of == kind} for kind in ((0, 1), (1, 0)))
    assert gains and losses
    assert {video.key for video in result.changed if video.is_gain} == gains
    assert {video.key for video in result.changed if not video.is_gain} == losses
    for video in result.changed:
        assert (video.a, video.b) == (scores_a[video.key].argmax(), scores_b[video.key].argmax())
        assert video.labels == (labels[video.key],)
    of = result.differences["top1"]
    assert of.a == pytest.approx(sum(x for x, _ in right.values()) / len(right))
    assert of.difference == pytest.approx((len(gains) - len(losses)) / len(right))
    # Four classes: every one is among the five highest.
    assert (result.differences["top5"].a, result.differences["top5"].difference) == (1.0, 0.0)
    by_class = {name: [right[key] for key, label in labels.items() if NAMES[label] == name] for name in NAMES}
    assert {of.name: (of.videos, of.a, of.b) for of in result.per_class} == {
        name: (len(of), pytest.approx(np.mean([x for x, _ in of])), pytest.approx(np.mean([y for _, y in of])))
        for name, of in by_class.items()
    }
    expected = np.mean([np.mean([y - x for x, y in of]) for of in by_class.values()])
    assert result.differences["mean_class_accuracy"].difference == pytest.approx(expected)


def test_the_interval_is_of_pairs(pair):
    ((a, scores_a), (b, scores_b)), labels = pair
    gain = np.array(
        [int(scores_b[k].argmax() == label) - int(scores_a[k].argmax() == label) for k, label in labels.items()]
    )
    draws = np.random.default_rng(0)
    means = [gain[draws.integers(len(gain), size=len(gain))].mean() for _ in range(4000)]
    of = compare(a, b).differences["top1"]
    assert (of.low, of.high) == pytest.approx(tuple(np.quantile(means, (0.025, 0.975))), abs=0.015)


def test_p_is_that_of_the_exact_test(pair):
    ((a, _), (b, _)), _ = pair
    result = compare(a, b)
    n, fewer = len(result.changed), min(result.gains, result.losses)
    assert result.p == pytest.approx(2 * sum(math.comb(n, k) for k in range(fewer + 1)) / 2**n)
    assert 0 < result.p < 1


def test_the_other_way_round_everything_turns_its_sign(pair):
    ((a, _), (b, _)), _ = pair
    there, back = compare(a, b), compare(b, a)
    for name, of in there.differences.items():
        assert back.differences[name].difference == pytest.approx(-of.difference)
        assert (back.differences[name].low, back.differences[name].high) == pytest.approx((-of.high, -of.low))
    assert (back.gains, back.losses, back.p) == (there.losses, there.gains, pytest.approx(there.p))


def test_a_dump_is_equal_to_itself(pair):
    ((a, _), _), _ = pair
    result = compare(a, a)
    assert {(of.difference, of.low, of.high) for of in result.differences.values()} == {(0.0, 0.0, 0.0)}
    assert (result.p, result.changed) == (1.0, ())


def test_videos_of_several_labels_and_segments(tmp_path):
    keys, labels = ["x", "x", "y"], [(0, 1), (2,), (3, 0)]
    first = np.array([[0, 9, 1, 2], [0, 9, 1, 2], [0, 0, 0, 1]])
    second = np.array([[0, 1, 9, 2], [0, 1, 9, 2], [1, 0, 0, 0]])
    a, b = (dump(tmp_path / name, keys, labels, of, loss="sigmoid") for name, of in (("a", first), ("b", second)))
    result = compare(a, b)
    assert [(video.key, video.labels, video.is_gain) for video in result.changed] == [
        ("x", (0, 1), False),
        ("x", (2,), True),
    ]
    assert list(result.differences) == ["top1", "top5", "mean_average_precision", "hit1", "hit3"]


@pytest.mark.parametrize(
    ("loss", "kind"), [("softmax", "folder"), ("softmax", "activitynet"), ("sigmoid", "folder"), ("sigmoid", None)]
)
def test_what_is_compared_is_what_each_was_measured_at(loss, kind, tmp_path):
    draws = np.random.default_rng(8)
    labels = [(int(label), int(draws.integers(4)))[: 1 + i % 2] for i, label in enumerate(draws.integers(4, size=40))]
    keys = [f"v{i}" for i in range(40)]
    about = {"loss": loss, "dataset_kind": kind}
    a, b = (dump(tmp_path / name, keys, labels, draws.normal(size=(40, 4)), **about) for name in "ab")
    result = compare(a, b)
    in_a, in_b = (measures_of(read_scores(path)).figures for path in (a, b))
    # How far confidence may be trusted is no difference of two.
    names = set(in_a) - {"calibration_error"}
    assert set(result.differences) == names
    assert ("mean_average_precision" in names) == ((loss, kind) != ("softmax", "folder"))
    for name in names:
        of = result.differences[name]
        assert (of.a, of.b) == pytest.approx((in_a[name].value, in_b[name].value))
        assert of.difference == pytest.approx(of.b - of.a)


def test_the_interval_of_average_precision_is_of_pairs(tmp_path):
    draws = np.random.default_rng(2)
    labels_NK = draws.random((60, 4)) < (0.4, 0.3, 0.3, 0)
    labels_NK[:, 0] |= ~labels_NK.any(axis=1)
    labels = [tuple(np.flatnonzero(of_video).tolist()) for of_video in labels_NK]
    first_NK = draws.normal(size=(60, 4)) + labels_NK
    second_NK = first_NK + 0.5 * draws.normal(size=(60, 4)) + 0.8 * labels_NK
    keys = [f"v{i}" for i in range(60)]
    a, b = (dump(tmp_path / name, keys, labels, of, loss="sigmoid") for name, of in (("a", first_NK), ("b", second_NK)))

    def slow(drawn):
        """B's less A's, of videos that may be drawn several times."""
        of_a, of_b = (
            [interpolated(of_NK[drawn, k], labels_NK[drawn, k]) for k in range(4) if labels_NK[drawn, k].any()]
            for of_NK in (first_NK, second_NK)
        )
        return np.mean(of_b) - np.mean(of_a)

    of = compare(a, b).differences["mean_average_precision"]
    assert of.difference == pytest.approx(slow(np.arange(60)), abs=1e-6)
    resampled = [slow(draws.integers(60, size=60)) for _ in range(400)]
    assert (of.low, of.high) == pytest.approx(tuple(np.quantile(resampled, (0.025, 0.975))), abs=0.02)
    # Side by side their intervals hold far more.
    alone = [measures_of(read_scores(path)).figures["mean_average_precision"] for path in (a, b)]
    assert of.high - of.low < 0.8 * sum(figure.high - figure.low for figure in alone)


def interpolated(scores_N, labels_N):
    """The mean over a class's videos of the best precision at the place of each or further on."""
    is_hit_N = labels_N[np.argsort(-scores_N)]
    precision_N = np.cumsum(is_hit_N) / np.arange(1, len(is_hit_N) + 1)
    return np.mean([precision_N[place:].max() for place in np.flatnonzero(is_hit_N)])


def test_a_video_that_lacks_a_segment_in_one_of_them_is_not_compared(tmp_path):
    # Of the first video A lacks a segment, nobody knows which: here its first, so that others would be paired.
    a = dump(tmp_path / "a", ["x", "y"], [(0,), (1,)], np.eye(4)[[3, 1]])
    b = dump(tmp_path / "b", ["x", "x", "y"], [(0,), (0,), (1,)], np.eye(4)[[0, 3, 1]])
    with pytest.raises(DataError, match=r"1 videos of .*b.* are not in .*a.*, such as 'x'"):
        compare(a, b)
    result = compare(a, b, common=True)
    assert (result.videos, result.only_in_a, result.only_in_b) == (1, 1, 2)
    assert (result.changed, result.differences["top1"].a, result.differences["top1"].b) == ((), 1, 1)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"keys": ["x", "z"]}, r"1 videos of .*a.* are not in .*b.*, such as 'y': evaluate the same split"),
        ({"labels": [(0,), (2,)]}, r"the labels of 'y' are '\"quo<ted>\"' in .* and 'ü+' in .*: they are of other"),
        ({"labels": [(0,), ()]}, r"the labels of 'y' are '.*' in .* and none in"),
        ({"class_names": [*NAMES[:3], "other"]}, r"are of other classes: class 3 is 'rare' and 'other'"),
        ({"class_names": NAMES[:3]}, r"are of other classes: 4 and 3"),
    ],
)
def test_what_does_not_match_is_named(change, said, tmp_path):
    given = {"keys": ["x", "y"], "labels": [(0,), (1,)], "class_names": NAMES}
    paths = []
    for name, of in (("a", given), ("b", {**given, **change})):
        scores_NK = np.zeros((2, len(of["class_names"])))
        paths.append(dump(tmp_path / name, of["keys"], of["labels"], scores_NK, class_names=of["class_names"]))
    with pytest.raises(DataError, match=said):
        compare(*paths)


def test_common_videos_are_compared_on_demand(tmp_path):
    a = dump(tmp_path / "a", ["x", "y", "z"], [(0,), (1,), (2,)], np.eye(3, 4))
    b = dump(tmp_path / "b", ["y", "w", "x"], [(1,), (0,), (0,)], np.eye(3, 4))
    result = compare(a, b, common=True)
    assert (result.videos, result.only_in_a, result.only_in_b) == (2, 1, 1)
    assert (result.differences["top1"].a, result.differences["top1"].b) == (1.0, 0.0)
    with pytest.raises(DataError, match="no video in common that has a label"):
        compare(a, dump(tmp_path / "c", ["q"], [(0,)], np.eye(1, 4)), common=True)


def test_a_dump_is_found_by_its_run(pair, tmp_path):
    ((a, _), _), _ = pair
    assert find_dump(a) == find_dump(a / SCORES) == a / SCORES
    run = tmp_path / "run"
    with pytest.raises(DataError, match=r"there are no scores at .*run"):
        find_dump(run)
    (run / "eval-val-u10").mkdir(parents=True)
    (run / "eval-val-u10" / SCORES).write_bytes((a / SCORES).read_bytes())
    assert find_dump(run) == run / "eval-val-u10" / SCORES
    (run / "eval-val-u4").mkdir()
    (run / "eval-val-u4" / SCORES).write_bytes(b"")
    with pytest.raises(UsageError, match=r"several evaluations: name one of .*eval-val-u10, .*eval-val-u4"):
        find_dump(run)


def command(*arguments, code=0):
    result = CliRunner().invoke(main, [str(argument) for argument in arguments], env={"COLUMNS": "300"})
    assert result.exit_code == code, (result.output, result.exception)
    return result.output


def test_the_command_says_what_changed(pair):
    ((a, _), (b, _)), _ = pair
    result = compare(a, b)
    said = command("compare", a, b)
    of = result.differences["top1"]
    assert f"{of.a:.1%}" in said and f"{100 * of.difference:+.1f}" in said and f"{100 * of.low:+.1f} to" in said
    assert f"only B is right about {result.gains} videos, only A about {result.losses}" in said
    assert NAMES[0] in said and NAMES[1] in said
    assert result.changed[0].key not in said
    listed = command("compare", a, b, "--changed")
    for video in result.changed:
        (line,) = [line for line in listed.splitlines() if f" {video.key} " in line]
        assert ("wrong → right" if video.is_gain else "right → wrong") in line
    document = json.loads(command("compare", a, b, "--json"))
    assert document["differences"]["top1"]["difference"] == of.difference
    assert document["mcnemar"] == {"gains": result.gains, "losses": result.losses, "p": result.p}
    assert len(document["changed"]) == len(result.changed)
    assert document["per_class"][2]["class"] == NAMES[2]
    assert "is damaged" in command("compare", a, __file__, code=1)
