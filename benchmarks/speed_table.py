"""The README's table of speeds, made from figures that the benchmarks printed. ``make speed-table`` writes it.

python -m benchmarks.speed_table [--bench FILE --machine NAME]

``benchmarks/speeds.jsonl`` has a line for each figure: what was done, on which machine, when it was noted, by which
command, and in how many videos/s or s. ``--bench FILE`` puts in what ``v4d bench data --compare --json`` printed, in
place of what there was of that machine.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from itertools import groupby
from pathlib import Path
from typing import Any

from preprocess.durable_files import replace_atomically

FIGURES = Path(__file__).parent / "speeds.jsonl"
README = Path(__file__).parent.parent / "README.md"
BEGIN = "<!-- speed-table: make speed-table writes it from benchmarks/speeds.jsonl -->"
END = "<!-- end of speed-table -->"
LOADING = "Loading videos for training, {units}×{frames} frames"  # noqa: RUF001


@dataclass(frozen=True)
class Figure:
    """One measured speed. ``unit`` is "videos/s", of which more is faster, or "s", of which less is."""

    what: str
    machine: str
    noted: str
    command: str
    route: str
    ours: bool
    value: float
    unit: str

    def said(self) -> str:
        """The value with its unit, to as many digits as it was noted with."""
        number = f"{self.value:,.0f}" if self.value >= 100 and self.value == int(self.value) else f"{self.value:,.1f}"
        return f"{number.removesuffix('.0')} {self.unit}"

    def times_faster_than(self, other: Figure) -> float:
        """How many times as fast this is. Raises ValueError if they are measured otherwise."""
        if self.unit != other.unit:
            raise ValueError(f"{self.unit} and {other.unit} do not compare")
        return self.value / other.value if self.unit == "videos/s" else other.value / self.value


def read_figures(path: Path = FIGURES) -> list[Figure]:
    """The figures of a file, in its order."""
    return [Figure(**json.loads(line)) for line in path.read_text().splitlines()]


def figures_of_bench(document: dict[str, Any], machine: str, today: date) -> list[Figure]:
    """What ``v4d bench data --compare --json`` measured; routes that could not be are left out."""
    what = LOADING.format(**document)
    command = "v4d bench data --compare"
    return [
        Figure(what, machine, today.isoformat(), command, of["route"], of["ours"], of["videos_per_s"], "videos/s")
        for of in document["routes"]
        if not of["problem"]
    ]


def as_table(figures: Iterable[Figure]) -> str:
    """The table in Markdown: a row for each alternative, beside ours on the same machine.

    Raises ValueError where a group of figures has not one of ours.
    """
    rows = ["| | v4d | beside | | times as fast | where, when, by |", "| --- | --- | --- | --- | --- | --- |"]
    for (what, machine), group in groupby(figures, lambda of: (of.what, of.machine)):
        measured = list(group)
        ours = [of for of in measured if of.ours]
        if len(ours) != 1:
            raise ValueError(f"{what}, {machine}: {len(ours)} figures of v4d's own, not 1")
        mine, first = ours[0], True
        for other in measured:
            if other is mine:
                continue
            times = f"{mine.times_faster_than(other):.2g}"
            where = f"{_cell(machine)}, {mine.noted}, `{mine.command}`" if first else ""
            rows.append(
                f"| {what if first else ''} | {mine.said() if first else ''} "
                f"| {_cell(other.route)} | {other.said()} | {times} | {where} |"
            )
            first = False
    return "\n".join(rows)


def _cell(text: str) -> str:
    return text.replace("|", r"\|")


def with_table(text: str, table: str) -> str:
    """A text with the table between its two markers. Raises ValueError if it has not each of them once."""
    if text.count(BEGIN) != 1 or text.count(END) != 1:
        raise ValueError(f"the text is to have once each: {BEGIN} and {END}")
    before, _, rest = text.partition(BEGIN)
    return f"{before}{BEGIN}\n\n{table}\n\n{END}{rest.partition(END)[2]}"


def _replaced(figures: Sequence[Figure], new: Sequence[Figure]) -> list[Figure]:
    groups = {(of.what, of.machine) for of in new}
    return [*new, *(of for of in figures if (of.what, of.machine) not in groups)]


def _write(path: Path, text: str) -> None:
    with replace_atomically(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the table, with new figures if there are."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bench", type=Path, help="what v4d bench data --compare --json printed")
    parser.add_argument("--machine", help="the machine it was measured on")
    parser.add_argument("--figures", type=Path, default=FIGURES)
    parser.add_argument("--readme", type=Path, default=README)
    given = parser.parse_args(arguments)
    if bool(given.bench) != bool(given.machine):
        parser.error("--bench and --machine go together")
    figures = read_figures(given.figures)
    if given.bench:
        new = figures_of_bench(json.loads(given.bench.read_text()), given.machine, date.today())
        figures = _replaced(figures, new)
    table = with_table(given.readme.read_text(), as_table(figures))
    _write(given.figures, "".join(json.dumps(asdict(of), ensure_ascii=False) + "\n" for of in figures))
    _write(given.readme, table)


if __name__ == "__main__":
    main()
