"""A plan as people read it."""

from __future__ import annotations

from rich.box import SIMPLE_HEAD
from rich.table import Table

from benchmarks.planning.constants import Figure
from benchmarks.planning.plan import Limit, Plan

_NOT_MEASURED = "not measured"
_NOT_SAID = "not said"
_SECONDS_SHOWN_BELOW = 100.0


def as_tables(made: Plan) -> list[Table]:
    """What it comes to; what bounds training, the one that binds marked; the rehearsal; and where figures are from."""
    return [_totals(made), _limits(made), _rehearsal(made), _figures(made)]


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True, title_justify="left")
    table.show_header = any(columns)
    for number, column in enumerate(columns):
        table.add_column(column, no_wrap=number == 0, justify="left" if number in (0, len(columns) - 1) else "right")
    return table


def _totals(made: Plan) -> Table:
    asked, machine, recipe = made.asked, made.asked.machine, made.asked.recipe
    kind = f"{machine.gpus:,} {machine.gpu} in {machine.nodes:,} node{'s' * (machine.nodes > 1)}"
    title = f"{asked.videos:,} videos of {asked.frames} frames, {asked.codec}, {recipe.name}, {kind}"
    table = _table(title, "", "needs", "")
    of_disk = "" if machine.disk_bytes is None else f"of {size(machine.disk_bytes)}: "
    of_disk += f"{size(made.bytes_per_video)} a video"
    _row(table, made, "disk", size(made.disk_bytes), of_disk)
    cores = machine.preprocess_cores
    wall = "--preprocess-cores says how long" if made.preprocess_hours is None else f"on {cores:,} cores"
    hours = f"{made.core_hours:,.0f} core-hours" if made.core_hours >= 10 else f"{made.core_hours:.2g} core-hours"
    if made.preprocess_hours is not None:
        hours += f", {duration(made.preprocess_hours)}"
    _row(table, made, "preprocessing", hours, wall)
    table.add_row("", size(made.list_bytes), "of memory for the list of videos, beside the workers")
    epochs, balance = recipe.optim.epochs, made.rehearsal.balance
    at_least = "" if asked.efficiency < 1 or machine.gpus == 1 else "at least "
    said = f"{epochs} epochs of {duration(made.epoch_hours)}, {balance.steps:,} steps of {recipe.train.global_batch:,}"
    table.add_row("training", f"{at_least}{duration(made.train_hours)}", said)
    if made.hours is not None:
        table.add_row("to the end", f"{at_least}{duration(made.hours)}", "one after the other")
    return table


def _row(table: Table, made: Plan, name: str, *cells: str) -> None:
    binds = made.bound_by == name
    table.add_row(f"{name} <- binds" if binds else name, *cells, style="bold" if binds else None)


def _limits(made: Plan) -> Table:
    title = f"training at {made.videos_per_s:,.4g} videos/s a GPU"
    table = _table(title, "", "needs", "has", "allows videos/s a GPU", "figure")
    for limit in made.limits:
        allows = "" if limit.allows is None else f"{limit.allows:,.4g}"
        basis = limit.figure.basis if limit.figure else _NOT_MEASURED
        _row(table, made, limit.name, _needs(limit), _has(limit), allows, basis)
    return table


def _needs(limit: Limit) -> str:
    return _NOT_MEASURED if limit.needs is None else _amount(limit.needs, limit.unit)


def _has(limit: Limit) -> str:
    if limit.has is not None:
        return _amount(limit.has, limit.unit)
    return _NOT_MEASURED if limit.name == "loader" else _NOT_SAID


def _amount(value: float, unit: str) -> str:
    if unit == "bytes/s a node":
        return f"{size(value)}/s a node"
    return f"{value:,.3g} {unit}" if value < 100 else f"{value:,.0f} {unit}"


def _rehearsal(made: Plan) -> Table:
    found, machine = made.rehearsal, made.asked.machine
    balance = found.balance
    table = _table("rehearsed here, at this size", "", "", "")
    exact = "each video once" if balance.exact else "NOT each video once"
    table.add_row("an epoch", f"{balance.steps:,} steps on every rank", f"{balance.share:,} videos a step and rank")
    videos = f"{balance.fewest:,} to {balance.most:,} videos a rank"
    table.add_row("balance", videos, f"{exact}; {balance.padded:,} rows fill the last step, and do not count")
    table.add_row("shards", f"{found.shards:,}", f"of up to {found.videos_in_shard} videos")
    per_node = found.rank_bytes * machine.gpus_on_a_node
    of_rank = f"index {size(found.index_bytes)}, order {size(found.order_bytes)}"
    of_file = f"the file {size(made.index_bytes)}"
    table.add_row("index and order", f"{size(per_node)} a node", f"a rank: {of_rank}; {of_file}")
    order = f"the order of an epoch {found.order_seconds:.2g} s, the index {found.open_seconds * 1e3:.2g} ms"
    table.add_row("start of a rank", f"{found.start_seconds:.2g} s", order)
    return table


def _figures(made: Plan) -> Table:
    table = _table("where the figures are from", "", "", "")
    for name, figure in made.figures.items():
        table.add_row(name, _amount(figure.value, figure.unit), _origin(figure))
    return table


def _origin(figure: Figure) -> str:
    said = ", ".join(part for part in (figure.basis, figure.source, figure.date, figure.machine) if part)
    # What a figure is taken from is a note of the plan.
    return f"{said}; {figure.note}" if figure.note and figure.basis == "measured" else said


def size(count: float) -> str:
    """Bytes in decimal units."""
    for unit, scale in (("PB", 1e15), ("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("KB", 1e3)):
        if count >= scale:
            return f"{count / scale:.3g} {unit}"
    return f"{count:.0f} B"


def duration(hours: float) -> str:
    """Hours as a person says them: seconds, minutes, hours or days."""
    seconds = hours * 3600
    if seconds < _SECONDS_SHOWN_BELOW:
        return f"{seconds:.3g} s"
    if hours < 2:
        return f"{hours * 60:.3g} min"
    return f"{hours:.3g} h" if hours < 96 else f"{hours:,.0f} h ({hours / 24:,.1f} days)"
