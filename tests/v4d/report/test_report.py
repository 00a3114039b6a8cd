"""The report: its figures are those of the files, whatever the names hold, and what is missing is said on it."""

import json
import re
import shutil

import numpy as np
import pytest

from tests.v4d.report.conftest import random_scores, v4d
from tests.v4d.report.page_reader import notes, report
from v4d.evaluation.measures import measures_of
from v4d.evaluation.scores_file import read_scores
from v4d.runs import read_record

HOSTILE = [
    "<script>alert(1)</script>",
    "</script><img src=x onerror=alert(2)>",
    "\"'><b onclick='alert(3)'>",
    "{{ 7 * 7 }}{% raw %}",
    "a" * 300,
    "🥊 漢字 \u202eedisni",
    "half a pair \ud800 & &amp; <!-- ",
    "]]></style><style>*{display:none}",
]


def test_a_page_has_what_the_files_have(evaluated):
    page = report(evaluated)
    dump = read_scores(evaluated / "eval-val-u5")
    measures = measures_of(dump)
    text = next(text for has, text in page.all("dl", class_="headline"))
    for figure in measures.figures.values():
        assert f"{figure.value:.1%} {figure.low:.1%} to {figure.high:.1%}" in text
    assert [row[0].split("split")[0] for row in page.table("evaluations")] == ["eval-val-u4", "eval-val-u5"]

    rows = page.table("classes")
    # Of two videos; Wilson's interval is (h + z²/2 ± z·sqrt(h·(2 - h)/2 + z²/4)) / (2 + z²).
    between = {0: "0.0% to 65.8%", 1: "9.5% to 90.5%", 2: "34.2% to 100.0%"}
    assert {row[0]: (int(row[1]), row[2]) for row in rows} == {
        name: (2, f"{accuracy:.1%} {between[round(2 * accuracy)]}")
        for name, accuracy in zip(dump.class_names, measures.accuracy_K, strict=True)
    }
    accuracies = [float(has["data-value"]) for has, _ in page.all("td", class_="accuracy") if "data-value" in has][:6]
    assert accuracies == sorted(measures.accuracy_K)
    # In the order of the most confused, with the number of its column before each name.
    shown = page.table("confusion")
    order = [dump.class_names.index(row[0].split(" ", 1)[1]) for row in shown]
    counts = [[0 if cell == "·" else int(cell) for cell in row[1:]] for row in shown]
    assert sorted(order) == list(range(6))
    np.testing.assert_array_equal(counts, measures.confusion_KK[np.ix_(order, order)])

    titles = [text for _, text in page.all("span", class_="title")]
    assert titles == ["Loss", "Top-1", "Learning rate", "Videos a second", "Data wait"]
    log = [json.loads(line) for line in (evaluated / "log.jsonl").open()]
    losses = [record["loss"] for record in log if "loss" in record]
    data = script_data(page)
    assert [point[3] for point in data["charts"][0]["series"][0]["points"]] == [f"{loss:.3g}" for loss in losses]
    checked = [f"{100 * record['val_top1']:.1f}" for record in log if "val_top1" in record]
    points = data["charts"][1]["series"][1]["points"]
    assert [float(point[3][:-1]) for point in points] == list(map(float, checked))
    assert f"{losses[0]:.3g} at step 0, {losses[-1]:.3g} at step 11" in page.all("desc")[0][1]
    recipe = {row[0]: row[1] for row in rows_of(page, "recipe")}
    assert recipe["base_width"].startswith("4 not 16, as in the packaged recipe")
    assert recipe["lr"] == "0.1"
    facts = " ".join(text for _, text in page.all("dl", class_="facts"))
    record = read_record(evaluated)
    assert record.fingerprint in facts
    assert record.versions["torch"] in facts


def script_data(page):
    return json.loads(next(text for tag, has, text in page.found if has.get("type") == "application/json"))


def rows_of(page, class_):
    for (has, _), rows in zip(page.all("table"), page.tables, strict=True):
        if has.get("class") == class_:
            yield from ([" ".join(text.split()) for _, _, text in row] for row in rows[1:])


def test_it_is_the_same_again_and_leaves_nothing_else(copy):
    report(copy)
    first, before = (copy / "report.html").read_bytes(), sorted(copy.iterdir())
    report(copy)
    assert (copy / "report.html").read_bytes() == first
    assert sorted(copy.iterdir()) == before
    out = copy / "elsewhere" / "page.html"
    v4d("report", copy, "--gpus", "0", "--out", out)
    assert out.read_bytes() == first


def test_a_run_that_was_not_evaluated_says_how(copy):
    for folder in copy.glob("eval-*"):
        shutil.rmtree(folder)
    page = report(copy)
    assert page.all("pre")[0][1] == f"v4d eval {copy} --u-infer 10"
    assert not page.all("table", class_="classes")
    assert "Loss" in [text for _, text in page.all("span", class_="title")]
    (copy / "log.jsonl").unlink()
    assert "The run has no log of its steps." in [text for _, text in report(copy).all("p")]


def test_a_dump_that_is_damaged_is_said(copy):
    (copy / "eval-val-u5/scores.arrow").write_bytes(b"none")
    page = report(copy)
    assert "eval-val-u5/scores.arrow holds no scores of v4d eval, or is damaged" in notes(page)
    assert not page.all("table", class_="evaluations")
    assert len(page.table("classes")) == 6


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["nowhere"], 1, "v4d: nowhere is no run: there is no nowhere/run.json"),
        (["{run}", "--evaluation", "eval"], 2, "no evaluation eval; there are: eval-val-u4, eval-val-u5"),
        (["{run}", "--mistakes", "-1"], 2, "-1 is not in the range"),
        (["{run}", "--out", "{run}"], 2, "is a directory"),
        (["{run}/log.jsonl"], 1, "log.jsonl is no run: there is no"),
    ],
)
def test_a_mistake_gets_one_clear_line(arguments, code, says, evaluated, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    said = v4d("report", *(word.format(run=evaluated) for word in arguments), "--gpus", "0", code=code)
    assert says in said
    assert not list(tmp_path.iterdir())


def test_names_are_text_whatever_they_hold(with_scores):
    scores, labels = random_scores(80, len(HOSTILE))
    keys = [f"{HOSTILE[i % len(HOSTILE)]}{i}".replace("\ud800", "") for i in range(80)]
    run = with_scores(scores, labels, HOSTILE, keys)
    page = report(run)
    shown = [name.replace("\ud800", "\\ud800") for name in HOSTILE]
    assert sorted(row[0] for row in page.table("classes")) == sorted(" ".join(name.split()) for name in shown)
    assert len(page.all("script")) == 2
    assert len(page.all("style")) == 1
    assert not page.all("b")
    assert not [has for _, has, _ in page.found if any(name.startswith("on") for name in has)]
    assert all(has["src"].startswith("data:") for has, _ in page.all("img"))
    assert "49" not in [row[0] for row in page.table("classes")]
    data = script_data(page)
    assert data["confusions"]["evaluation-1"]["names"] == HOSTILE


def test_nothing_on_it_names_another_place(evaluated):
    page = report(evaluated)
    text = (evaluated / "report.html").read_text()
    pictures = re.findall(r'src="([^"]*)"', text)
    assert pictures
    assert all(uri.startswith("data:") for uri in pictures)
    assert not re.findall(r"https?://", text)
    (policy,) = (has["content"] for has, _ in page.all("meta") if has.get("http-equiv"))
    assert policy.startswith("default-src 'none'; img-src data:; style-src 'sha256-")
    assert "unsafe" not in policy


def test_scores_before_the_softmax_and_of_several_labels(with_scores):
    scores, labels = random_scores(60, 7)
    names = [f"class {i}" for i in range(7)]
    with_scores(scores, labels, names)
    run = with_scores(np.log(scores) + 3, labels, names, scores="logits")
    several = [(int(label), (int(label) + 1) % 7) for label in labels]
    with_scores(scores, several, names, scores="sigmoid", loss="sigmoid")
    page = report(run, "--mistakes", "0")
    lists = [text for has, text in page.all("ol", class_="mistakes")]
    # Those of the softmax and of the logits have the same shares; none is of the evaluation that is shown first.
    assert len(lists) == 2
    assert re.findall(r"[\d.]+%", lists[0]) == re.findall(r"[\d.]+%", lists[1])
    wrong = sum(int(row.argmax()) not in of_video for row, of_video in zip(scores, several, strict=True))
    assert f"{wrong} mistakes, none of which was asked for." in [text for _, text in page.all("p")]
    # Where a video may be of several classes there is no confusion of two.
    assert len(page.all("table", class_="confusion")) == 2


def test_of_several_labels_there_are_average_precisions_and_hits(with_scores):
    scores, labels = random_scores(60, 7)
    several = [(int(label), (int(label) + 1) % 6) for label in labels % 6]
    names = [f"class {i}" for i in range(7)]
    run = with_scores(
        scores, several, names, loss="sigmoid", scores="sigmoid", protocol="untrimmed", units_per_second=2
    )
    page, measures = report(run), measures_of(read_scores(run / "eval-0"))
    (headline,) = [text for _, text in page.all("dl", class_="headline")]
    assert [text for _, text in page.all("dt")][:4] == ["Mean average precision", "Hit@1", "Hit@3", "Taken for"]
    assert f"{measures.figures['mean_average_precision'].value:.1%}" in headline
    assert "protocol untrimmed, units per second 2," in " ".join(text for _, text in page.all("p"))
    precisions = measures.average_precision_K
    order = [*np.argsort(precisions[:6], kind="stable").tolist(), 6]
    assert [row[0] for row in page.table("classes")] == [names[i] for i in order]
    said = [f"{precisions[i]:.1%}" for i in order[:-1]]
    assert [row[2] for row in page.table("classes")] == [*said, "no videos"]
    # Each mistake has both of its labels, with their shares.
    wrong = max(
        (row for row in range(60) if int(scores[row].argmax()) not in several[row]), key=lambda row: scores[row].max()
    )
    first = next(text for _, text in page.all("dl", class_="verdict"))
    shares = [f"Label{names[label]} {scores[wrong, label]:.1%}" for label in several[wrong]]
    assert first.endswith(" ".join(shares))


def test_hits_that_any_video_is_are_left_out(with_scores):
    scores, labels = random_scores(20, 3)
    page = report(with_scores(scores, [(int(label),) for label in labels], "abc", loss="sigmoid"))
    (headline,) = [text for _, text in page.all("dl", class_="headline")]
    assert "Hit@1" in headline
    assert "Hit@3" not in headline


def test_one_class_makes_a_page(with_scores):
    page = report(with_scores(np.ones((4, 1)), [0] * 4, ["only"]))
    assert page.table("classes") == [["only", "4", "100.0% 51.0% to 100.0%", "none"]]
    assert "Chance is 100.0%." in page.all("p", class_="quiet")[0][1]


def test_what_is_shown_first_was_not_trained_on(with_scores):
    scores, labels = random_scores(20, 3)
    with_scores(scores, labels, "abc")
    page = report(with_scores(scores, scores.argmax(axis=1), "abc", split="train", step=2))
    (said,) = page.all("p", class_="quiet")
    assert said[1].startswith("eval-0: split val, ")
    assert "Chance is 33.3%." in said[1]


def test_a_run_that_diverged_has_the_curves_that_it_has(copy):
    log = [json.loads(line) for line in (copy / "log.jsonl").open()]
    lines = (json.dumps({**record, "loss": float("nan")}) + "\n" for record in log if "loss" in record)
    (copy / "log.jsonl").write_text("".join(lines))
    titles = [text for _, text in report(copy).all("span", class_="title")]
    assert titles[:2] == ["Top-1", "Learning rate"]


def test_unlabelled_videos_alone_still_make_a_page(with_scores):
    scores, _ = random_scores(5, 3)
    page = report(with_scores(scores, [-1] * 5, ["a", "b", "c"]))
    assert "None: no video has a label." in [text for _, text in page.all("p")]
    assert not page.all("table", class_="classes")
