"""What the networks cost: parameters and multiply-adds by model and setting."""

from __future__ import annotations

from dataclasses import dataclass

from rich.box import SIMPLE_HEAD
from rich.table import Table

from preprocess.errors import UsageError
from v4d.config import nearest
from v4d.models.multiply_adds import count_multiply_adds, on_meta
from v4d.models.registry import list_models, registered


@dataclass(frozen=True)
class ModelCost:
    """A network in one setting. Multiply-adds are of one video of ``units`` units of ``frames`` frames, one crop."""

    name: str
    units: int
    frames: int
    stride: int
    crop: int
    classes: int
    parameters: int
    multiply_adds: int
    with_norms_and_activations: int


def model_costs(
    pattern: str = "",
    *,
    classes: int = 400,
    units: int | None = None,
    frames: int | None = None,
    crop: int | None = None,
) -> list[ModelCost]:
    """The networks that match ``pattern``, each in the setting of its training but for what is given.

    Raises UsageError if none matches.
    """
    costs = []
    for name in chosen_models(pattern):
        known = registered(name)
        video = (units or known.data.units, frames or known.data.frames, crop or known.data.train_crop)
        costs.append(_cost(name, classes, *video))
    return costs


def chosen_models(pattern: str) -> list[str]:
    """The names that match ``pattern``. Raises UsageError if none does."""
    names = list_models(pattern)
    if not names:
        every = list_models()
        raise UsageError(f"no model matches '{pattern}'{nearest(pattern, every)}; there are {', '.join(every)}")
    return names


def _cost(name: str, classes: int, units: int, frames: int, crop: int) -> ModelCost:
    known = registered(name)
    model, x_NCTHW = on_meta(known.model, classes, units, frames, crop)
    needed = count_multiply_adds(lambda: model(x_NCTHW, units))
    return ModelCost(
        name=name,
        units=units,
        frames=frames,
        stride=known.data.stride,
        crop=crop,
        classes=classes,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        multiply_adds=needed.products,
        with_norms_and_activations=needed.total,
    )


def as_table(costs: list[ModelCost]) -> Table:
    """The costs as ``v4d models`` prints them."""
    # Without lines between columns it fits 80 letters.
    table = Table(
        title=f"one video, one crop, {costs[0].classes} classes", box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True
    )
    table.add_column("model", no_wrap=True)
    for column in ("units x\nframes", "crop", "para-\nmeters", "multiply-\nadds", "with norms\nand ReLUs"):
        table.add_column(column, justify="right", no_wrap=True)
    for cost in costs:
        table.add_row(
            cost.name,
            f"{cost.units} x {cost.frames}",
            str(cost.crop),
            f"{cost.parameters / 1e6:.1f} M",
            f"{cost.multiply_adds / 1e9:.1f} G",
            f"{cost.with_norms_and_activations / 1e9:.1f} G",
        )
    return table
