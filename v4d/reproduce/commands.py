"""The command ``v4d reproduce``: parses, calls, prints."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING

import click

from preprocess.console import console, notes
from preprocess.errors import UsageError
from v4d.evaluation.commands import MAX_BAD_OPTION

if TYPE_CHECKING:
    from preprocess.index import Dataset
    from v4d.reproduce.plan import Job, Plan

_PATH = click.Path(path_type=Path)
# Makes the small dataset, or what is missing of it: a folder for the videos, one for the shards, the videos of each
# class by split, a seed, and processes.
Renderer = Callable[[Path, Path, dict[str, int], int, int], None]


def reproduce_command(render: Renderer) -> click.Command:
    """The command, given what makes the small dataset, which is for ``preprocess`` to do."""

    @click.command("reproduce")
    @click.argument("table")
    @click.option(
        "--data",
        type=_PATH,
        multiple=True,
        help="Preprocessed dataset, again for those that rows start on  [default: at small scale videos that are "
        "rendered for it]",
    )
    @click.option("--scale", type=click.Choice(["full", "small"]), default="full", help="small: in minutes on a CPU.")
    @click.option("--seeds", type=click.IntRange(1, 100), help="Trainings of each row  [default: 3; 1 at small scale]")
    @click.option("--only", "rows", multiple=True, metavar="ROW", help="Only this row; may be given again.")
    @click.option("--out", type=_PATH, help="Folder of the runs  [default: runs/reproduce, or runs/reproduce-small]")
    @click.option("--set", "settings", multiple=True, metavar="SECTION.KEY=VALUE", help="Override a value of each row.")
    @click.option(
        "--init",
        "starts",
        multiple=True,
        metavar="RECIPE=WEIGHTS",
        help="Start from these weights, a file or a run, in place of training RECIPE first.",
    )
    @click.option("--gpus", type=click.IntRange(0), help="GPUs to use, 0 for the CPU  [default: all there are]")
    @click.option("--procs", type=click.IntRange(1), help="Processes on the CPU, with --gpus 0  [default: 1]")
    @MAX_BAD_OPTION
    @click.option("--dry-run", is_flag=True, help="Say what would be trained, on what, and what is done already.")
    @click.option("--json", "as_json", is_flag=True, help="Print one JSON document; all else goes to standard error.")
    def reproduce(
        table: str,
        data: tuple[Path, ...],
        scale: str,
        seeds: int | None,
        rows: tuple[str, ...],
        out: Path | None,
        settings: tuple[str, ...],
        starts: tuple[str, ...],
        gpus: int | None,
        procs: int | None,
        max_bad: float | None,
        dry_run: bool,
        as_json: bool,
    ) -> None:
        """Train and evaluate the rows of one of the paper's tables, and print them beside its figures.

        TABLE is table2a, table2c, table2d, table2e, table3, table4, table5, table6, figure3 or activitynet. What is
        finished is not done again, and the same command goes on where it was stopped. The result is written to
        OUT/TABLE.md and OUT/TABLE.json too.

        \b
        Example: v4d reproduce table2a --scale small
        """
        from pipelines import MAX_BAD
        from preprocess.durable_files import replace_atomically
        from preprocess.index import read_dataset
        from v4d.launch import choose_gpus, is_under_a_launcher
        from v4d.reproduce.carry_out import carry_out
        from v4d.reproduce.plan import Plan, see_that_it_can_be_trained
        from v4d.reproduce.results import table_result
        from v4d.reproduce.scale import SCALES
        from v4d.reproduce.tables import paper_table

        found, size = paper_table(table), SCALES[scale]
        chosen = found.only(rows)
        if is_under_a_launcher():
            raise UsageError("v4d reproduce starts its own processes: run it without torchrun")
        gpus = choose_gpus(gpus)
        if gpus and procs:
            raise UsageError("--procs is for the CPU: use it with --gpus 0")
        if not data and scale == "full":
            raise UsageError(f"name the preprocessed dataset with --data: {table} is on {found.dataset.name}")
        out = out or Path("runs") / ("reproduce" if scale == "full" else f"reproduce-{scale}")
        weights = dict(_start(given) for given in starts)
        began = time.monotonic()
        with _said_to_standard_error(as_json):
            small = () if data else (_small_dataset(out, None if dry_run else render),)
            datasets = (*map(read_dataset, data), *small)
            plan = Plan(found, chosen, size, datasets, out, seeds or size.seeds, settings, weights)
            jobs = plan.jobs()
            see_that_it_can_be_trained(jobs, gpus or procs or 1)
            if not dry_run:
                carry_out(
                    jobs,
                    notes,
                    gpus=gpus,
                    processes=procs or 1,
                    batch=size.batch,
                    max_bad=MAX_BAD if max_bad is None else max_bad,
                )
        if dry_run:
            _say_what_would_be_done(plan, jobs, as_json)
            return
        result = table_result(plan, jobs)
        document = json.dumps(result.as_document(), indent=2, ensure_ascii=False)
        for name, content in ((f"{table}.json", document + "\n"), (f"{table}.md", result.as_markdown())):
            with replace_atomically(out / name) as temporary:
                temporary.write_text(content)
        if as_json:
            click.echo(document)
            return
        console.print(result.as_table())
        _say_what_differs(result.differences)
        if result.then:
            console.print(f"then: {result.then}")
        console.print(f"{out / table}.md and .json have it too; all of it took {time.monotonic() - began:.0f} s")

    return reproduce


def _start(given: str) -> tuple[str, str]:
    recipe, equals, weights = given.partition("=")
    if not equals or not weights:
        raise UsageError(f"--init {given}: expected RECIPE=WEIGHTS, as in k400_v4d_r50=runs/kinetics")
    return recipe, weights


def _small_dataset(out: Path, render: Renderer | None) -> Dataset:
    """The dataset of the small scale; without ``render`` what it would be, if it is not there."""
    from preprocess.index import read_dataset
    from v4d.reproduce.scale import VIDEOS_PER_CLASS, small_dataset

    shards = out / "shards" / "ordered-actions"
    if render:
        videos = out / "data" / "ordered-actions" / "videos"
        render(videos, shards, VIDEOS_PER_CLASS, 0, os.cpu_count() or 1)
    elif not (shards / "dataset.json").exists():
        return small_dataset(shards)
    return read_dataset(shards)


def _say_what_would_be_done(plan: Plan, jobs: Sequence[Job], as_json: bool) -> None:
    from v4d.reproduce.results import differences

    trainings = list({training.run: training for job in jobs for training in job.trainings}.values())
    if as_json:
        document = {
            "trainings": [
                {
                    "run": str(one.run),
                    "recipe": one.recipe.name,
                    "data": str(one.dataset.root),
                    "epochs": one.recipe.optim.epochs,
                    "state": one.state(),
                }
                for one in trainings
            ],
            "evaluations": [
                {"row": job.row.name, "seed": job.seed, "scores": str(job.scores), "state": job.state()} for job in jobs
            ],
        }
        click.echo(json.dumps(document, indent=2))
        return
    for one in trainings:
        videos = one.dataset.splits["train"]["videos"]
        console.print(
            f"{one.run}: {one.state()}; recipe {one.recipe.name}, "
            f"{one.recipe.optim.epochs} epochs of {videos:,} videos of {one.dataset.root}"
        )
    for job in jobs:
        console.print(f"{job.scores}: {job.state()}; {job.row.test()}")
    _say_what_differs(differences(plan, jobs))


def _say_what_differs(lines: Iterable[str]) -> None:
    from v4d.reproduce.results import DIFFERS

    console.print(f"{DIFFERS}:")
    for line in lines:
        console.print(f"- {line}")


@contextmanager
def _said_to_standard_error(wanted: bool) -> Iterator[None]:
    """What this process and those that it starts print, to standard error."""
    if not wanted:
        yield
        return
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)
