"""The figures of the report: axes, curves of long runs, and the orders and the picture of the confusion."""

import base64
import io
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from v4d.report.confusion import confusion_of
from v4d.report.curves import read_step_figures, throughput_table, training_charts
from v4d.report.line_chart import Series, line_chart, ticks

FINITE = st.floats(-1e9, 1e9, allow_nan=False).map(lambda value: round(value, 6))


@given(FINITE, FINITE)
def test_ticks_are_few_even_and_around_all_values(one, other):
    low, high = min(one, other), max(one, other)
    found = list(ticks(low, high))
    assert 2 <= len(found) <= 7
    step = found[1] - found[0]
    np.testing.assert_allclose(np.diff(found), step, rtol=1e-6)
    # To less than is seen.
    assert found[0] - low <= 1e-6 * step
    assert high - found[-1] <= 1e-6 * step


def test_ticks_are_round_numbers():
    assert list(ticks(0, 0.97)) == [0, 0.25, 0.5, 0.75, 1]
    assert list(ticks(0.0017, 0.05)) == [0, 0.02, 0.04, 0.06]
    assert list(ticks(0, 89, whole=True)) == [0, 25, 50, 75, 100]
    assert list(ticks(3, 3)) == [3, 4, 5, 6]


def test_a_line_goes_through_its_points():
    chart = line_chart("x", "X", [Series("a", ((0, 0.0), (5, 1.0), (10, 0.5)))], "percent", low=0.0)
    middle = (chart.left + chart.right) / 2
    ends = [(chart.left, chart.bottom), (middle, chart.top), (chart.right, (chart.top + chart.bottom) / 2)]
    assert chart.lines[0].path == "M" + "L".join(f"{x:g},{y:g}" for x, y in ends)
    assert [tick.text for tick in chart.y_ticks] == ["0%", "25%", "50%", "75%", "100%"]
    assert chart.said == "a: 0% at step 0, 50% at step 10, lowest 0%, highest 100%."


def test_a_long_run_is_shown_in_means(tmp_path):
    losses = np.random.default_rng(0).random(100_000)
    records = ({"step": step, "epoch": 1, "loss": loss, "top1": 0.5, "lr": 0.1} for step, loss in enumerate(losses))
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records) + '{"step": 9')
    figures = read_step_figures(tmp_path)
    chart = training_charts(tmp_path, figures)[0]
    points = chart.data["series"][0]["points"]
    assert 100 < len(points) < 400
    means = [part.mean() for part in np.array_split(losses, len(points))]
    assert [point[3] for point in points] == [f"{mean:.3g}" for mean in means]
    assert [chart.data["series"][0]["name"] for chart in training_charts(tmp_path, figures)[1:2]] == ["Training"]
    assert throughput_table(figures) == []


def test_what_is_no_number_is_left_out(tmp_path):
    losses = [1.0, float("nan"), 3.0]
    records = ({"step": step, "loss": loss, "top1": 0, "lr": 1, "mfu": 0.4} for step, loss in enumerate(losses))
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    figures = read_step_figures(tmp_path)
    points = training_charts(tmp_path, figures)[0].data["series"][0]["points"]
    assert [point[2:] for point in points] == [["step 0", "1"], ["step 2", "3"]]
    assert [(row.title.split(",")[0], row.median) for row in throughput_table(figures)] == [("MFU", "40.0%")]


def made(classes, seed=0):
    draws = np.random.default_rng(seed)
    confusion = draws.poisson(0.05, (classes, classes)) + np.diag(draws.integers(0, 20, classes))
    # One class that no video is of.
    confusion[-1] = 0
    with np.errstate(invalid="ignore"):
        return confusion, confusion.diagonal() / confusion.sum(axis=1)


@pytest.mark.parametrize("classes", [2, 21, 200])
def test_orders_of_the_confusion(classes):
    counts, accuracy = made(classes)
    counts[1, 0] = 50
    names = [f"name {(7 * i) % classes:03}" for i in range(classes)]
    orders = confusion_of(names, counts, accuracy).data["orders"]
    assert all(sorted(order) == list(range(classes)) for order in orders.values())
    assert [names[i] for i in orders["name"]] == sorted(names)
    in_order = [accuracy[i] for i in orders["accuracy"]]
    assert in_order[:-1] == sorted(in_order[:-1])
    assert np.isnan(in_order[-1])
    assert set(orders["confused"][:2]) == {0, 1}


def test_the_picture_shows_each_cell_once_in_its_order():
    counts, accuracy = made(60)
    shown = confusion_of([str(i) for i in range(60)], counts, accuracy)
    image = Image.open(io.BytesIO(base64.b64decode(shown.picture.split(",")[1])))
    assert image.size == (60, 60)
    assert shown.width % 60 == 0
    pixels = np.asarray(image.convert("RGBA")).astype(int)
    order = shown.data["orders"]["confused"]
    inside = counts[np.ix_(order, order)]
    share = inside / np.maximum(inside.sum(axis=1, keepdims=True), 1)
    np.testing.assert_array_equal(pixels[..., 3] > 0, inside > 0)
    # Blue on the diagonal, orange beside it, and the stronger the larger the share.
    is_hit = np.eye(60, dtype=bool)
    assert (pixels[is_hit & (inside > 0)][:, 2] > 150).all()
    assert (pixels[~is_hit & (inside > 0)][:, 0] > 200).all()
    strength, of = pixels[..., 3][inside > 0], share[inside > 0]
    assert (np.diff(strength[np.argsort(of)]) >= 0).all()
    assert confusion_of(["a", "b"], counts[:2, :2], accuracy[:2]).picture == ""


def test_pairs_are_those_of_the_most_mistakes():
    counts = np.array([[5, 4, 0], [0, 9, 1], [7, 0, 0]])
    pairs = confusion_of(["a", "b", "c"], counts, counts.diagonal() / counts.sum(axis=1)).pairs
    said = [(pair.name, pair.taken_for, pair.videos, pair.share) for pair in pairs]
    assert said == [("c", "a", 7, 1.0), ("a", "b", 4, 4 / 9), ("b", "c", 1, 0.1)]
