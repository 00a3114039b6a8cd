"""The paper's tables as data: TOML files in this folder, a row for each network that is trained.

Their figures are those of the text submitted to ICLR 2020, sections 4.2 to 4.4, in per cent; docs/reproduce.md says
what was seen of the published one.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Literal

import tomlkit
from pydantic import BaseModel, ConfigDict, model_validator

from preprocess.errors import UsageError
from v4d.config import nearest
from v4d.evaluation.protocols import Kind, Protocol, Reverse

Measure = Literal["top1", "top5", "mean_average_precision"]
# What the paper has besides, for which there is nothing to train.
_ELSEWHERE = {
    "table1": "v4d models shows its networks",
    "table2b": "v4d models --classes 1000 --units 4 --frames 4 --crop 224 counts its multiply-adds",
    "figure1": "docs/models.md shows what it draws",
    "figure2": "docs/models.md shows what it draws",
}


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class PaperDataset(_Part):
    """A dataset as the paper had it: ``kind`` as ``v4d info`` says it; videos and classes, 0 where not known."""

    name: str
    kind: str
    train: int = 0
    val: int = 0
    classes: int = 0


class PaperRow(_Part):
    """A row: a recipe with ``settings`` over it, how it is tested, and the paper's figures in per cent, where known.

    ``run`` is where it is trained, below the folder of all runs: rows that are the same network name the same one.
    """

    name: str
    network: str
    recipe: str
    settings: tuple[str, ...] = ()
    protocol: Kind = "v4d"
    reverse: Reverse | None = None
    run: str = ""
    paper: dict[Measure, float] = {}

    def test(self) -> Protocol:
        """Ten units, or clips, and three crops (section 4.2)."""
        return Protocol(self.protocol, reverse=self.reverse)


class PaperTable(_Part):
    """A table, by its ``name``. ``then`` is a command that its runs are for, with their rows' names in braces."""

    name: str
    title: str
    dataset: PaperDataset
    rows: tuple[PaperRow, ...]
    measures: tuple[Measure, ...] = ("top1", "top5")
    note: str = ""
    then: str = ""

    @model_validator(mode="before")
    @classmethod
    def _name_runs(cls, content: dict[str, object]) -> dict[str, object]:
        rows = content.get("rows", [])
        if not isinstance(rows, list):
            return content
        return {**content, "rows": [{"run": f"{content['name']}/{row['name']}", **row} for row in rows]}

    def only(self, names: tuple[str, ...]) -> tuple[PaperRow, ...]:
        """Some of the rows, in the table's order; all if ``names`` is empty. Raises UsageError for an unknown one."""
        known = [row.name for row in self.rows]
        for name in names:
            if name not in known:
                raise UsageError(f"{self.name} has no row '{name}'{nearest(name, known)}; it has {', '.join(known)}")
        return tuple(row for row in self.rows if not names or row.name in names)


@cache
def paper_tables() -> dict[str, PaperTable]:
    """The tables by name, in the paper's order; figures and appendix come last."""
    return {
        file.stem: PaperTable.model_validate({"name": file.stem, **tomlkit.parse(file.read_text()).unwrap()})
        for file in sorted(Path(__file__).parent.glob("*.toml"), key=lambda file: (file.stem[0] != "t", file.stem))
    }


def paper_table(name: str) -> PaperTable:
    """Raises UsageError, with what there is, for one that is not, and for one with nothing to train."""
    known = paper_tables()
    if name in known:
        return known[name]
    if name in _ELSEWHERE:
        raise UsageError(f"{name} trains nothing: {_ELSEWHERE[name]}")
    raise UsageError(f"there is no table '{name}'{nearest(name, list(known))}; there are {', '.join(known)}")
