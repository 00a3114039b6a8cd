"""The mistakes that a network was surest of: their frames, and the maps of the network that was evaluated."""

import base64
import io
import json
import shutil
from dataclasses import replace

import numpy as np
import torch
from PIL import Image

from pipelines import EvalLoader
from preprocess.index import as_record_batch, read_dataset, write_index
from tests.v4d.conftest import TINY
from tests.v4d.report.page_reader import notes, report
from v4d.activation_maps import activation_maps
from v4d.activation_sheet import MapRow, overlaid_frames
from v4d.checkpoint import find_checkpoint, load_checkpoint, save_checkpoint
from v4d.evaluation.scores_file import read_scores, write_scores
from v4d.recipes.files import load_recipe
from v4d.report.evaluations import Mistake
from v4d.report.mistakes import _sample_numbers
from v4d.runs import read_record
from v4d.trained import load_run


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


def pictures_of(page):
    return [(has["alt"], has["src"]) for has, _ in page.all("img") if "Unit" in has["alt"]]


def test_maps_are_of_the_network_that_was_evaluated_alone(copy, evaluated):
    """A run that is trained anew has other networks at the same steps."""
    first = pictures_of(report(copy))
    assert any("where the network sees" in alt for alt, _ in first)
    checkpoint = load_checkpoint(copy)
    other = {name: value.flip(0) if value.dim() else value for name, value in checkpoint.model.items()}
    shutil.rmtree(find_checkpoint(copy))
    save_checkpoint(copy, replace(checkpoint, model=other))
    # This one is a copy: the network that was evaluated is where it was then.
    assert pictures_of(report(copy)) == first
    scores = read_scores(copy / "eval-val-u5")
    shutil.rmtree(copy / "eval-val-u4")
    about = {**scores.about, "checkpoint": str(find_checkpoint(copy))}

    def write(about):
        write_scores(copy / "eval-val-u5/scores.arrow", scores.keys, scores.labels, list(scores.scores_NK), about)

    write(about)
    page = report(copy)
    assert f"{find_checkpoint(copy)} is another network than was evaluated: the run was trained anew" in notes(page)
    assert pictures_of(page)
    assert not [alt for alt, _ in pictures_of(page) if "where the network sees" in alt]
    # Of an older version's evaluation nothing but the step is known.
    del about["network"]
    write(about)
    assert any("where the network sees" in alt for alt, _ in pictures_of(report(copy)))


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
