"""The commands ``v4d recipes`` and ``v4d recipes show``: parse, call, print."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click
from rich.box import SIMPLE_HEAD
from rich.table import Table

from preprocess.console import console

if TYPE_CHECKING:
    from v4d.config import Recipe


@click.group(invoke_without_command=True)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@click.pass_context
def recipes(context: click.Context, as_json: bool) -> None:
    """List the recipes that come with v4d: the network, the datasets it is for, and what it is.

    \b
    Example: v4d recipes
    """
    from v4d.recipes.files import packaged_recipes

    if context.invoked_subcommand:
        return
    found = packaged_recipes()
    if as_json:
        click.echo(json.dumps([_as_document(recipe) for recipe in found.values()]))
        return
    table = Table(box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    for column in ("recipe", "network", "datasets"):
        table.add_column(column, no_wrap=True)
    table.add_column("what it is", overflow="fold")
    for recipe in found.values():
        said = _as_document(recipe)
        table.add_row(said["name"], said["network"], ", ".join(said["kinds"]) or "any", said["about"])
    console.print(table)


def _as_document(recipe: Recipe) -> dict[str, Any]:
    return {
        "name": recipe.name,
        "network": _network(recipe),
        "kinds": list(recipe.fits.kinds),
        "about": recipe.about,
        "starts_from": recipe.train.starts_from or recipe.train.init,
    }


def _network(recipe: Recipe) -> str:
    """As in "V4D ResNet-50 8x4": frames of a unit, and units."""
    model, data = recipe.model, recipe.data
    relates_units = model.blocks_4d and (model.block_4d != "conv4d" or model.kernel_4d[0] > 1)
    kind = "V4D" if relates_units and data.units > 1 else "TSN" if data.units > 1 else "I3D-S"
    return f"{kind} ResNet-{model.depth} {data.frames}x{data.units}"


@recipes.command()
@click.argument("name")
@click.option("--set", "settings", multiple=True, metavar="SECTION.KEY=VALUE", help="Override a value of the recipe.")
def show(name: str, settings: tuple[str, ...]) -> None:
    """Print a recipe whole, as a TOML file that says what each key means; v4d train --recipe FILE takes it.

    NAME is a recipe that comes with v4d, or a TOML file.

    \b
    Example: v4d recipes show v4d_resnet18 --set optim.lr=0.02
    """
    from v4d.recipes.as_toml import as_toml
    from v4d.recipes.files import load_recipe, read_recipe

    click.echo(as_toml(load_recipe(name, settings), read_recipe(name)), nl=False)
