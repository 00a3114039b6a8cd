"""What a table takes: the trainings of its rows for each seed, those that they start from first, and where each is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from preprocess.errors import DataError, UsageError
from preprocess.index import Dataset
from v4d.checkpoint import last_checkpoint
from v4d.config import Recipe
from v4d.evaluation.scores_file import SCORES
from v4d.recipes.files import load_recipe, packaged_recipes
from v4d.reproduce.scale import Scale
from v4d.reproduce.tables import PaperRow, PaperTable
from v4d.runs import read_record, summary


@dataclass(frozen=True)
class Training:
    """A recipe to be trained on a dataset, into the folder ``run``; ``as_in_paper`` is what it was before changes."""

    run: Path
    recipe: Recipe
    as_in_paper: Recipe
    dataset: Dataset

    def is_finished(self) -> bool:
        """Whether ``run`` is this very training, at its end."""
        if last_checkpoint(self.run) is None:
            return False
        record = read_record(self.run)
        is_this = record.recipe == self.recipe and record.fingerprint == self.dataset.fingerprint
        return is_this and record.end is not None and record.end.state == "finished"

    def state(self) -> str:
        """For people: whether it is to be trained, how far it is, or finished."""
        if self.is_finished():
            return "trained"
        if last_checkpoint(self.run) is None:
            return "to train"
        found = summary(self.run)
        return f"{found.state} at step {found.step} of {found.steps}"


@dataclass(frozen=True)
class Job:
    """A row with one seed: its ``trainings``, of which the last one is the row's own."""

    row: PaperRow
    seed: int
    trainings: tuple[Training, ...]

    @property
    def own(self) -> Training:
        """The row's own training."""
        return self.trainings[-1]

    @property
    def scores(self) -> Path:
        """The folder of its evaluation."""
        return self.own.run / f"eval-val-{self.row.test().name}"

    def state(self) -> str:
        """For people: whether it is evaluated."""
        is_there = self.own.is_finished() and (self.scores / SCORES).exists()
        return "evaluated" if is_there else "to evaluate"


@dataclass(frozen=True)
class Plan:
    """How a table is to be carried out.

    ``datasets`` are what there is to train on. ``settings`` are over each recipe, of the form ``section.key=value``.
    ``starts`` are weights by recipe, in place of a training that rows start from. Runs lie below ``out``.
    """

    table: PaperTable
    rows: tuple[PaperRow, ...]
    scale: Scale
    datasets: tuple[Dataset, ...]
    out: Path
    seeds: int
    settings: tuple[str, ...] = ()
    starts: Mapping[str, str] | None = None

    def jobs(self) -> list[Job]:
        """All rows with one seed, then with the next.

        Raises UsageError where a row starts from a training for whose dataset there is none, and for settings, datasets
        or weights that cannot be used.
        """
        known = packaged_recipes()
        begun = {start for row in self.rows for start in _starts(row.recipe, known)}
        for name in self.starts or {}:
            if name not in begun:
                raise UsageError(
                    f"--init {name}=...: these rows start from {', '.join(sorted(begun)) or 'no training'}"
                )
        if len({dataset.kind for dataset in self.datasets}) < len(self.datasets):
            kinds = ", ".join(f"{dataset.root} of {dataset.kind}" for dataset in self.datasets)
            raise UsageError(f"--data names two datasets of a kind: {kinds}")
        return [
            Job(row, seed, tuple(self._trainings(row.recipe, row.settings, row.run, seed)))
            for seed in range(self.seeds)
            for row in self.rows
        ]

    def dataset(self) -> Dataset:
        """The one of the table's rows: that of the paper's kind, or the only one."""
        for dataset in self.datasets:
            if dataset.kind == self.table.dataset.kind:
                return dataset
        if len(self.datasets) == 1:
            return self.datasets[0]
        raise UsageError(f"{self.table.name} is on a dataset of kind {self.table.dataset.kind}: none of --data is one")

    def _trainings(self, name: str, settings: tuple[str, ...], run: str, seed: int) -> Iterator[Training]:
        as_in_paper = load_recipe(name, settings)
        recipe = load_recipe(name, (*settings, *self.scale.settings(as_in_paper), *self.settings))
        start = recipe.train.starts_from
        given = (self.starts or {}).get(start)
        if start and not given:
            before = list(self._trainings(start, (), f"stages/{start}", seed))
            yield from before
            given = str(before[-1].run)
        train = recipe.train.model_copy(update={"seed": seed, **({"init": given} if given else {})})
        recipe = recipe.model_copy(update={"train": train})
        yield Training(self.out / f"{run}-seed-{seed}", recipe, as_in_paper, self._dataset_of(recipe))

    def _dataset_of(self, recipe: Recipe) -> Dataset:
        of_table = self.dataset()
        # On a dataset that is none of the paper's all is trained on that one.
        if of_table.kind != self.table.dataset.kind or of_table.kind in recipe.fits.kinds:
            return of_table
        for dataset in self.datasets:
            if dataset.kind in recipe.fits.kinds:
                return dataset
        raise UsageError(
            f"{self.table.name} starts from {recipe.name}, which is trained on {' or '.join(recipe.fits.kinds)}: name "
            f"such a dataset too, with another --data, or its weights with --init {recipe.name}=RUN"
        )


def _starts(name: str, known: Mapping[str, Recipe]) -> Iterator[str]:
    """The recipes that a recipe starts from, the last one first."""
    while name := known[name].train.starts_from:
        yield name


def see_that_it_can_be_trained(jobs: Sequence[Job], processes: int) -> None:
    """Raises UsageError or DataError for what would end a training at its beginning, before the first one begins."""
    for job in jobs:
        for training in job.trainings:
            training.recipe.train.share_of(processes)
            if not training.dataset.splits.get("val", {}).get("videos", 0):
                raise DataError(f"{training.dataset.root} has no videos in its split val, to measure accuracy with")
