"""The trainer's benchmark runs both loops by turns, and says what they came to. No test looks at a time."""

import time
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from benchmarks.training import (
    LoopProcess,
    Turn,
    Work,
    as_table,
    conclusion,
    loops_of,
    make_dataset,
    measure,
    overheads,
)
from preprocess.errors import DataError
from v4d.recipes.files import load_recipe

TINY = ("model.base_width=4", "data.train_crop=32", "data.frames=2", "train.global_batch=4")


@pytest.fixture
def work(datasets):
    return Work(load_recipe("demo", TINY), datasets["mjpeg"].root, 0)


def test_both_loops_take_turns(work):
    found = measure(work, rounds=2)
    assert [list(of_round) for of_round in found] == [["bare loop", "v4d train"]] * 2
    for turn in (turn for of_round in found for turn in of_round.values()):
        assert 0 <= turn.waited_s < turn.step_s
        assert turn.cpu_s > 0
    assert as_table(work, found).row_count == 2


def test_decords_loop_has_a_turn_too(work, videos):
    pytest.importorskip("decord")
    found = measure(replace(work, videos=videos), rounds=1)
    assert list(found[0]) == loops_of(replace(work, videos=videos)) == ["bare loop", "v4d train", "DataLoader, decord"]
    # Its workers decode: their time counts.
    assert all(turn.cpu_s > 0 and turn.step_s > 0 for turn in found[0].values())
    assert "times as fast as the loop fed by decord" in conclusion(found)
    with pytest.raises(DataError, match=r"DataLoader, decord: .*nothing-here.* is not there"):
        measure(replace(work, videos=videos / "nothing-here"), rounds=1)


def test_a_loop_stands_still_between_its_turns(work):
    process = LoopProcess("bare loop", work)
    try:
        process.turn()
        until = time.monotonic() + 30
        while Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0] != "T":
            assert time.monotonic() < until, "it is not stopped"
            time.sleep(0.01)
    finally:
        process.end()


def test_a_loop_that_fails_says_why(work, tmp_path):
    with pytest.raises(DataError, match=r"^bare loop: .*nothing-here"):
        measure(Work(work.recipe, tmp_path / "nothing-here", 0), rounds=1)


def test_what_is_concluded(work):
    found = [
        {"bare loop": Turn(0.1, 0.01, 0.2), "v4d train": Turn(0.1 * times, 0.02, 0.2)}
        for times in (1.5, 1.02, 1.01, 0.99, 1.02)
    ]
    assert overheads(found) == pytest.approx([-0.01, 0.01, 0.02, 0.02, 0.5])
    assert conclusion(found) == (
        "a step of the trainer takes +2.0% longer: a median of 5 rounds, half of them from +1.0% to +2.0%; "
        "asked: at most 3%"
    )
    console = Console(width=100)
    with console.capture() as shown:
        console.print(as_table(work, found))
    (ours,) = [line.split("│")[1:-1] for line in shown.get().splitlines() if "v4d train" in line]
    assert [cell.strip() for cell in ours] == ["v4d train", "39.2", "102.0", "200.0", "19.6%"]


def test_the_demos_videos_are_made_where_none_are_named(tmp_path):
    dataset = make_dataset(tmp_path, per_class=2)
    assert dataset.kind == "ordered-actions"
    assert dataset.splits["train"]["videos"] == 12
