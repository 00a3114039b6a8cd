"""The report: its figures are those of the files, whatever the names hold, and what is missing is said on it."""

import base64
import io
import json
import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from PIL import Image

from pipelines import EvalLoader
from preprocess.index import as_record_batch, read_dataset, write_index
from tests.v4d.conftest import TINY
from tests.v4d.report.conftest import random_scores, v4d
from v4d.activation_maps import activation_maps
from v4d.activation_sheet import MapRow, overlaid_frames
from v4d.evaluation.measures import measures_of
from v4d.evaluation.scores_file import read_scores, write_scores
from v4d.recipes.files import load_recipe
from v4d.report.evaluations import Mistake
from v4d.report.mistakes import _sample_numbers
from v4d.runs import read_record
from v4d.trained import load_run

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
EMPTY = {"meta", "link", "img", "path", "rect", "circle", "input", "br"}


class Page(HTMLParser):
    """The elements of a page: (tag, attributes, text below it), and the texts of each row of each table."""

    def __init__(self, text):
        super().__init__()
        self.found, self.open, self.tables = [], [], []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        element = [tag, dict(attrs), ""]
        self.found.append(element)
        if tag == "table":
            self.tables.append([])
        if tag == "tr":
            self.tables[-1].append([])
        if tag in ("td", "th"):
            self.tables[-1][-1].append(element)
        if tag not in EMPTY:
            self.open.append(element)

    def handle_endtag(self, tag):
        if tag not in EMPTY:
            assert self.open.pop()[0] == tag

    def handle_data(self, data):
        for element in self.open:
            element[2] += data

    def all(self, tag, **attributes):
        wanted = {key.rstrip("_"): value for key, value in attributes.items()}.items()
        return [
            (has, " ".join(text.split())) for name, has, text in self.found if name == tag and wanted <= has.items()
        ]

    def table(self, class_):
        """The texts of the first table of a class, without its head."""
        number = [has.get("class") for has, _ in self.all("table")].index(class_)
        return [[" ".join(text.split()) for _, _, text in row] for row in self.tables[number][1:]]


def report(run, *options):
    said = v4d("report", run, "--gpus", "0", *options)
    assert f"report: {run}/report.html" in said
    return Page((run / "report.html").read_text(encoding="utf-8"))


def test_a_page_has_what_the_files_have(evaluated):
    page = report(evaluated)
    dump = read_scores(evaluated / "eval-val-u5")
    measures = measures_of(dump)
    text = next(text for has, text in page.all("dl", class_="headline"))
    for figure in measures.figures.values():
        assert f"{figure.value:.1%} {figure.low:.1%} to {figure.high:.1%}" in text
    assert [row[0].split("split")[0] for row in page.table("evaluations")] == ["eval-val-u4", "eval-val-u5"]

    rows = page.table("classes")
    assert {row[0]: (int(row[1]), row[2]) for row in rows} == {
        name: (2, f"{accuracy:.1%}") for name, accuracy in zip(dump.class_names, measures.accuracy_K, strict=True)
    }
    assert [float(row[2][:-1]) for row in rows] == sorted(float(row[2][:-1]) for row in rows)
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


def picture(uri):
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1]))).convert("RGB")).astype(float)


def test_the_surest_mistakes_are_shown_with_their_own_frames_and_maps(evaluated):
    page = report(evaluated, "--mistakes", "3", "--evaluation", "eval-val-u4")
    dump = read_scores(evaluated / "eval-val-u4")
    wrong = [row for row, scores in enumerate(dump.scores_NK) if scores.argmax() != dump.labels_N[row]]
    surest = sorted(wrong, key=lambda row: -dump.scores_NK[row].max())[:3]
    items = page.all("li")
    shown = [text for _, text in items if "Taken for" in text][:3]
    assert len(page.all("div", class_="units")) == 3
    trained, dataset = load_run(evaluated), read_dataset(read_record(evaluated).dataset)
    take = trained.recipe.data.test_sampling(4)
    loader = EvalLoader(dataset, "val", take, global_batch=1, device=torch.device("cpu"), crops=1)
    batches = list(loader)
    pictures = [has["src"] for has, _ in page.all("img") if "Unit" in has["alt"]]
    for number, row in enumerate(surest):
        taken = int(dump.scores_NK[row].argmax())
        said = [dump.keys[row], dump.class_names[taken], f"{dump.scores_NK[row].max():.1%}"]
        assert all(part in shown[number] for part in said)
        (x_NCTHW,) = batches[row].crops
        frames = x_NCTHW.permute(0, 2, 3, 4, 1).numpy()
        maps = activation_maps(trained.model.eval(), x_NCTHW, 4, torch.tensor([taken])).maps_BUTHW[0].numpy()
        over = overlaid_frames(frames, MapRow("", "", 0.0, maps), [1], 144)[:, 0]
        for unit in range(4):
            found = [picture(uri) for uri in pictures[number * 8 + 2 * unit :][:2]]
            large = Image.fromarray(frames[unit, 1]).resize((144, 144), Image.Resampling.LANCZOS)
            assert np.abs(found[0] - np.asarray(large)).mean() < 6
            assert np.abs(found[1] - over[unit]).mean() < 6
            # These bounds tell one frame from another.
            assert np.abs(found[0] - over[unit]).mean() > 12


def test_a_segment_is_found_behind_the_others_of_its_video(dataset, tmp_path):
    copy = shutil.copytree(dataset.root, tmp_path / "copy")
    index = read_dataset(copy).split("val")
    rows = [replace(row, segments=((row.label, 0.0, 0.3),) * (number % 3)) for number, row in enumerate(index)]
    write_index(copy / "val" / "index.arrow", [as_record_batch(rows)], index.metadata)
    # A video without a segment is one: 1, 1, 2, 1, 1, 2 and so on.
    mistakes = [Mistake(rows[row].key, nth, (0,), 1, 0.9, (0.1,)) for row, nth in ((2, 1), (5, 0), (4, 1))]
    numbers = _sample_numbers(read_dataset(copy).split("val"), "segment", mistakes)
    assert numbers == {mistakes[0]: 3, mistakes[1]: 6}
    take = load_recipe("demo", (*TINY, "data.over=segment")).data.test_sampling(4)
    loader = EvalLoader(read_dataset(copy), "val", take, global_batch=1, device=torch.device("cpu"), crops=1)
    assert [batch.keys for batch in loader.at([3, 6])] == [(rows[2].key,), (rows[5].key,)]


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


def notes(page):
    return " ".join(text for _, text in page.all("p", class_="note"))


def test_what_is_gone_is_said_and_the_rest_is_shown(copy, dataset, tmp_path):
    moved = shutil.copytree(dataset.root, tmp_path / "moved")
    record = json.loads((copy / "run.json").read_text())
    (copy / "run.json").write_text(json.dumps({**record, "dataset": str(tmp_path / "nowhere")}))
    page = report(copy)
    assert f"There are no pictures, as the dataset cannot be read: {tmp_path}/nowhere holds no dataset.json" in notes(
        page
    )
    assert not page.all("div", class_="units")
    assert page.all("table", class_="confusion")
    page = report(copy, "--data", moved)
    assert len(page.all("div", class_="units")) > 0
    shutil.rmtree(moved / "val")
    assert "no pictures" in notes(report(copy, "--data", moved))


def test_without_its_checkpoint_there_are_frames_alone(copy, tmp_path, evaluated):
    scores = read_scores(copy / "eval-val-u5")
    shutil.rmtree(copy / "eval-val-u4")
    about = {**scores.about, "checkpoint": str(tmp_path / "gone" / "step-00000007"), "step": 7}
    write_scores(copy / "eval-val-u5/scores.arrow", scores.keys, scores.labels, list(scores.scores_NK), about)
    page = report(copy)
    assert "There are no activation maps" in notes(page)
    units = [has["alt"] for has, _ in page.all("img") if "Unit" in has["alt"]]
    assert units
    assert all("middle frame" in alt for alt in units)


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
    assert page.table("classes") == [["only", "4", "100.0%", "none"]]
    assert "Chance is 100.0%." in page.all("p", class_="quiet")[0][1]


def test_what_is_shown_first_was_not_trained_on(with_scores):
    scores, labels = random_scores(20, 3)
    with_scores(scores, labels, "abc")
    page = report(with_scores(scores, scores.argmax(axis=1), "abc", split="train", step=2))
    (said,) = page.all("p", class_="quiet")
    assert said[1].startswith("eval-0: split val, ")
    assert "Chance is 33.3%." in said[1]


def test_of_an_untrimmed_evaluation_whole_videos_are_shown(copy, dataset, tmp_path):
    """Be it of a network that was trained on segments."""
    moved = shutil.copytree(dataset.root, tmp_path / "moved")
    index = read_dataset(moved).split("val")
    write_index(
        moved / "val" / "index.arrow",
        [as_record_batch([replace(row, segments=((row.label, 0.0, 0.3),)) for row in index])],
        index.metadata,
    )
    scores, path = read_scores(copy / "eval-val-u5"), copy / "eval-val-u5" / "scores.arrow"
    record = json.loads((copy / "run.json").read_text())
    record["recipe"]["data"]["over"] = "segment"
    (copy / "run.json").write_text(json.dumps(record))

    def pictures(protocol):
        write_scores(path, scores.keys, scores.labels, list(scores.scores_NK), {**scores.about, "protocol": protocol})
        page = report(copy, "--data", moved, "--evaluation", "eval-val-u5", "--mistakes", "2")
        return [has["src"] for has, _ in page.all("img") if "middle frame" in has["alt"]]

    of_segments, whole = pictures("v4d"), pictures("untrimmed")
    assert len(whole) == 8
    assert whole != of_segments
    record["recipe"]["data"]["over"] = "video"
    (copy / "run.json").write_text(json.dumps(record))
    assert pictures("v4d") == whole


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
