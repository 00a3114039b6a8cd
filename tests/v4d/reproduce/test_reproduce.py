"""The paper's tables as commands: what they say of the paper, what they train, and what comes out."""

import itertools
import json
from dataclasses import replace

import numpy as np
import pytest
from click.testing import CliRunner

from cli import main
from preprocess.errors import DataError, UsageError
from v4d.evaluation.scores_file import write_scores
from v4d.recipes.files import load_recipe, packaged_recipes
from v4d.reproduce.plan import Plan
from v4d.reproduce.results import table_result
from v4d.reproduce.scale import SCALES, small_dataset
from v4d.reproduce.tables import paper_table, paper_tables

TABLES = paper_tables()
ROWS = [(table, row) for table in TABLES.values() for row in table.rows]
# A network and a training of seconds, over the small scale.
TINY = (
    "model.base_width=4", "data.train_crop=32", "data.test_crop=32", "data.frames=2", "optim.epochs=1",
    "optim.warmup_epochs=0", "train.global_batch=4",
)  # fmt: skip


def v4d(*arguments, code=0):
    result = CliRunner().invoke(main, [str(one) for one in arguments])
    assert result.exit_code == code, (result.output, result.exception)
    return result.output


def tiny(*arguments, code=0):
    over = [part for one in TINY for part in ("--set", one)]
    return v4d("reproduce", *arguments, "--scale", "small", "--gpus", 0, *over, code=code)


def test_figures_are_those_of_which_the_paper_speaks():
    """Section 4.2 says in words how far V4D is above the others, and 4.4 that orders matter."""
    figures = {row.name: row.paper["top1"] for row in TABLES["table2a"].rows}
    assert figures["v4d"] - figures["i3d_s_plus_plus"] == pytest.approx(2.0)
    assert figures["v4d"] - figures["tsn"] == pytest.approx(2.6)
    kernels = {row.name: row.paper["top1"] for row in TABLES["table2c"].rows}
    assert max(kernels, key=kernels.get) == "k3333"
    places = {row.name: row.paper["top1"] for row in TABLES["table2d"].rows}
    assert places["res5"] < min(places["res3"], places["res4"]) < places["res3_res4"] == max(places.values())
    order = {row.name: row.paper["top1"] for row in TABLES["table6"].rows}
    assert order["normal"] == TABLES["table5"].rows[0].paper["top1"] > 2 * order["units_reversed"]


def test_rows_that_are_one_network_are_trained_once():
    of_run = {}
    for _, row in ROWS:
        of_run.setdefault(row.run, []).append(row)
    for rows in of_run.values():
        assert len({(row.recipe, row.settings) for row in rows}) == 1
        of_protocol = {(row.protocol, row.reverse, tuple(row.paper.items())) for row in rows if row.paper}
        assert len(of_protocol) == len({(row.protocol, row.reverse) for row in rows if row.paper})
    # And what is the same is said to be.
    assert len({(row.recipe, row.settings) for _, row in ROWS}) == len(of_run)


def test_every_row_is_on_its_tables_dataset():
    used = set()
    for table, row in ROWS:
        recipe = load_recipe(row.recipe, row.settings)
        assert table.dataset.kind in recipe.fits.kinds
        assert set(row.paper) <= set(table.measures)
        # One unit: clips by themselves, as I3D is tested.
        assert (row.protocol == "dense") == (recipe.data.units == 1)
        while recipe.name not in used:
            used.add(recipe.name)
            recipe = packaged_recipes()[recipe.train.starts_from or recipe.name]
    its_own = {name for name, recipe in packaged_recipes().items() if recipe.fits.by_name or recipe.train.starts_from}
    assert its_own <= used


def test_the_small_scale_keeps_what_a_row_is():
    small = SCALES["small"]
    for _, row in ROWS:
        then = load_recipe(row.recipe, row.settings)
        now = load_recipe(row.recipe, (*row.settings, *small.settings(then)))
        for section, keys in {
            "data": ("units", "frames", "fit_stride"),
            "model": ("depth", "blocks_4d", "block_4d", "kernel_4d"),
            "optim": ("frozen",),
            "train": ("starts_from", "loss"),
        }.items():
            for key in keys:
                assert getattr(getattr(now, section), key) == getattr(getattr(then, section), key)
        assert SCALES["full"].settings(then) == ()


def test_4d_blocks_that_were_held_at_0_are_trained_longer_at_the_small_scale():
    def epochs(name):
        recipe = load_recipe(name)
        return load_recipe(name, SCALES["small"].settings(recipe)).optim.epochs

    others = {epochs(name) for name in ("k400_v4d_r50_held", "something_v1_v4d_r50", "mini_tsn_r18")}
    assert len(others) == 1
    assert epochs("k400_v4d_r50") > others.pop()


def plan(name, datasets, out, rows=(), **options):
    table = paper_table(name)
    return Plan(table, table.only(rows), SCALES["full"], datasets, out, **{"seeds": 1, **options})


def of_kind(kind, root):
    return replace(small_dataset(root / kind), kind=kind)


def test_stages_are_trained_in_turn_each_on_its_dataset(tmp_path):
    kinetics, something = of_kind("kinetics", tmp_path), of_kind("something", tmp_path)
    (job,) = plan("table5", (something, kinetics), tmp_path).jobs()
    assert [one.recipe.name for one in job.trainings] == [
        "k400_i3d_s_r50", "k400_v4d_r50_held", "k400_v4d_r50", "something_v1_v4d_r50"
    ]  # fmt: skip
    assert [one.dataset.kind for one in job.trainings] == ["kinetics"] * 3 + ["something"]
    assert [one.recipe.train.init for one in job.trainings] == [
        "imagenet", *(str(one.run) for one in job.trainings[:-1])
    ]  # fmt: skip
    # Those that table 4 trains are the same.
    first, third = plan("table4", (kinetics,), tmp_path).jobs()
    assert (first.own, third.own) == (job.trainings[0], job.trainings[2])
    with pytest.raises(UsageError, match=r"starts from k400_i3d_s_r50, which is trained on kinetics: name such a"):
        plan("table5", (something,), tmp_path).jobs()
    (job,) = plan("table5", (something,), tmp_path, starts={"k400_v4d_r50": "k400.safetensors"}).jobs()
    assert [one.recipe.train.init for one in job.trainings] == ["k400.safetensors"]
    with pytest.raises(UsageError, match=r"--init k400=...: these rows start from k400_i3d_s_r50, k400_v4d_r50, "):
        plan("table5", (something, kinetics), tmp_path, starts={"k400": "x"}).jobs()
    # A dataset of another kind is for all of them.
    (job,) = plan("table5", (of_kind("folder", tmp_path),), tmp_path).jobs()
    assert {one.dataset.kind for one in job.trainings} == {"folder"}


def test_seeds_are_trainings_of_their_own(tmp_path):
    jobs = plan("table2a", (of_kind("mini-kinetics", tmp_path),), tmp_path, rows=("v4d", "tsn"), seeds=2).jobs()
    assert [(job.row.name, job.own.recipe.train.seed) for job in jobs] == [
        ("tsn", 0), ("v4d", 0), ("tsn", 1), ("v4d", 1)
    ]  # fmt: skip
    assert len({job.own.run for job in jobs}) == 4


def test_what_comes_out_is_the_mean_of_the_seeds(tmp_path):
    """Two seeds of 4 videos: hits of the first place in 3 and in 1, among the first five in 4 and 3 of them."""
    work = plan("table2a", (of_kind("mini-kinetics", tmp_path),), tmp_path, rows=("v4d",), seeds=2)
    jobs = work.jobs()
    labels = [(0,), (1,), (2,), (5,)]
    right = np.eye(6, dtype=np.float32)[[0, 1, 2, 5]]
    first, second = right.copy(), right.copy()
    first[3] = [0.3, 0.25, 0.2, 0.1, 0.05, 0.1]
    second[0] = [0.1, 0.9, 0.0, 0.0, 0.0, 0.0]
    second[1] = [0.9, 0.1, 0.0, 0.0, 0.0, 0.0]
    second[3] = [0.3, 0.25, 0.2, 0.15, 0.1, 0.0]
    about = {"class_names": list("abcdef")}
    for job, scores in zip(jobs, (first, second), strict=True):
        write_scores(job.scores / "scores.arrow", list("wxyz"), labels, list(scores), about)
    result = table_result(work, jobs)
    (row,) = result.rows
    assert (row.videos, row.seeds) == (4, 2)
    top1, top5 = row.figures["top1"], row.figures["top5"]
    assert (top1.of_seeds, top1.mean, top1.spread) == ((75.0, 25.0), 50.0, pytest.approx(50 / 2**0.5))
    assert (top5.of_seeds, top5.mean) == ((100.0, 75.0), 87.5)
    # All resamples of the four videos' hits, of both seeds in the mean: 1, 1/2, 1/2 and 0.
    every = [25 * sum(drawn) for drawn in itertools.product([0.5, 0.5, 1, 0], repeat=4)]
    assert (top1.low, top1.high) == tuple(np.percentile(every, [2.5, 97.5], method="nearest"))
    assert (row.row.paper["top1"], result.then) == (75.6, "")
    page = result.as_markdown()
    said = f"| {row.row.network} | 50.0 ± 35.4 ({top1.low:.1f} to {top1.high:.1f}) | 75.6 |"
    assert said in page
    assert "- data: 360 videos in train and 150 in val, of 6 classes; the paper's Mini-Kinetics had 78,422" in page
    write_scores(jobs[1].scores / "scores.arrow", list("wxyv"), labels, list(second), about)
    with pytest.raises(DataError, match="is of other videos than"):
        table_result(work, jobs)


def test_mean_average_precision_of_several_labels(tmp_path):
    """By hand: class a is found at places 1 and 3, which is (1 + 2/3) / 2; b at 1; c, whose scores are one, last."""
    work = plan("activitynet", (of_kind("activitynet", tmp_path),), tmp_path, starts={"k400_v4d_r50": "x"})
    jobs = work.jobs()
    scores = np.array([[0.9, 0.1, 0.5], [0.8, 0.7, 0.5], [0.7, 0.2, 0.5]], np.float32)
    about = {"class_names": list("abc")}
    write_scores(jobs[0].scores / "scores.arrow", list("xyz"), [(0,), (1,), (0, 2)], list(scores), about)
    result = table_result(work, jobs)
    figure = result.rows[0].figures["mean_average_precision"]
    assert figure.mean == pytest.approx(100 * (5 / 6 + 1 + 1 / 3) / 3)
    assert figure.spread is None
    assert "| \N{EN DASH} |" in result.as_markdown()
    assert any("could not be established" in line for line in result.differences)
    assert "starts from x" in result.differences


@pytest.fixture(scope="module")
def reproduced(dataset, tmp_path_factory):
    """Two rows of Table 2a for two seeds, at a size of seconds: the folder, and what was printed."""
    out = tmp_path_factory.mktemp("reproduced")
    rows = ("--only", "tsn", "--only", "v4d", "--seeds", 2)
    return out, tiny("table2a", *rows, "--data", dataset.root, "--out", out), rows


def test_rows_are_trained_and_set_beside_the_paper(reproduced, dataset):
    out, said, _ = reproduced
    assert said.count("training mini_tsn_r18 on") == said.count("training mini_v4d_r18 on") == 2
    assert "Table 2a: effectiveness of V4D (small scale)" in said
    assert f"- data: {dataset.root} (ordered-actions), 24 videos in train and 12 in val, of 6 classes, in" in said
    assert "What differs from the paper, or where it is silent from the recipes:" in said
    assert "- optim.epochs: 1 in place of 100" in said
    document = json.loads((out / "table2a.json").read_text())
    assert [row["row"] for row in document["rows"]] == ["tsn", "v4d"]
    for row in document["rows"]:
        for seed, share in enumerate(row["figures"]["top1"]["of_seeds"]):
            of_run = out / "table2a" / f"{row['row']}-seed-{seed}"
            (accuracy,) = of_run.glob("eval-val-*/accuracy.json")
            assert json.loads(accuracy.read_text())["top1"] == pytest.approx(share / 100)
        assert row["paper"]["top1"] == {"tsn": 73.0, "v4d": 75.6}[row["row"]]
    assert [row["protocol"][:12] for row in document["rows"]] == ["protocol tsn", "protocol v4d"]


def test_what_is_finished_is_not_done_again(reproduced, dataset):
    out, _, rows = reproduced
    before = {path: path.stat().st_mtime_ns for path in out.rglob("step-*/*")}
    said = tiny("table2a", *rows, "--data", dataset.root, "--out", out)
    assert "training mini" not in said
    assert said.count("has this evaluation already\n") == 4
    assert "--again" not in said
    assert before == {path: path.stat().st_mtime_ns for path in out.rglob("step-*/*")}
    # The same network is a row of another table.
    said = tiny("table2c", "--only", "tsn", "--data", dataset.root, "--out", out, "--dry-run")
    assert f"{out}/table2a/tsn-seed-0: trained; recipe mini_tsn_r18, 1 epochs of 24 videos" in said
    assert f"{out}/table2a/tsn-seed-0/eval-val-tsn-u10: evaluated" in said
    # Another training is not taken for it.
    over = ("--set", "optim.lr=0.5", "--data", dataset.root, "--out", out)
    assert "tsn-seed-0: finished at step 6 of 6" in tiny("table2a", "--only", "tsn", *over, "--dry-run")
    assert "was begun with another recipe (differing: optim)" in tiny("table2a", "--only", "tsn", *over, code=2)


def test_a_chain_starts_each_stage_from_the_one_before(dataset, tmp_path):
    said = tiny("table4", "--only", "v4d", "--data", dataset.root, "--out", tmp_path, "--json")
    assert json.loads(said[said.index("{\n") :])["rows"][0]["row"] == "v4d"
    for name, start in (("k400_v4d_r50_held", "k400_i3d_s_r50"), ("k400_v4d_r50", "k400_v4d_r50_held")):
        run = json.loads((tmp_path / f"stages/{name}-seed-0/run.json").read_text())
        assert run["end"]["state"] == "finished"
        assert run["recipe"]["train"]["init"] == str(tmp_path / f"stages/{start}-seed-0")
        assert f"weights from {tmp_path}/stages/{start}-seed-0/checkpoints/step-" in said


def test_a_dry_run_does_nothing(tmp_path):
    said = tiny("table2a", "--out", tmp_path / "runs", "--dry-run")
    assert said.count(": to train; ") == said.count(": to evaluate; ") == 5
    assert "What differs from the paper, or where it is silent from the recipes:\n- data: " in said
    assert list(tmp_path.iterdir()) == []
    found = json.loads(tiny("table2a", "--out", tmp_path / "runs", "--dry-run", "--json"))
    assert {one["state"] for one in found["trainings"]} == {"to train"}


def test_what_cannot_be_done_is_said_first(dataset, tmp_path):
    assert "trains nothing: v4d models" in v4d("reproduce", "table2b", code=2)
    assert "did you mean 'table2a'?" in v4d("reproduce", "tabel2a", "--scale", "small", code=2)
    assert "name the preprocessed dataset with --data" in v4d("reproduce", "table2a", "--gpus", 0, code=2)
    assert "it has i3d_s_4x1, " in tiny("table2a", "--only", "x", code=2)
    assert "does not divide over 3 processes" in tiny("table2a", "--data", dataset.root, "--procs", 3, code=2)
    twice = ("--data", dataset.root, "--data", dataset.root, "--out", tmp_path / "runs")
    assert "two datasets of a kind" in tiny("table2a", *twice, code=2)
    assert "expected RECIPE=WEIGHTS" in tiny("table2a", "--data", dataset.root, "--init", "x", code=2)
    assert list(tmp_path.iterdir()) == []
