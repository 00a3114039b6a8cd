"""A recipe as a TOML file: every key, what it means, and why it has the value that it has."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator

import tomlkit
from pydantic import BaseModel
from tomlkit.items import Table

from v4d.config import Recipe
from v4d.recipes.files import Written

_WIDTH = 100


def as_toml(recipe: Recipe, written: Written) -> str:
    """``recipe`` as TOML that loads as the same recipe again, under the name of the file that it is put into.

    ``written`` is what the recipe's files say: where a value is still theirs, their comment on it is given too.
    """
    document = tomlkit.document()
    based = f", based on {' <- '.join(written.bases)}" if written.bases else ""
    document.add(tomlkit.comment(f"recipe {recipe.name}{based}"))
    document.add("about", tomlkit.item(recipe.about))
    for name in Recipe.model_fields:
        section = getattr(recipe, name)
        if isinstance(section, BaseModel):
            document.add(tomlkit.nl())
            document.add(name, _table(name, section, written))
    return tomlkit.dumps(document)


def _table(name: str, section: BaseModel, written: Written) -> Table:
    table = tomlkit.table()
    for key, field in type(section).model_fields.items():
        value = section.model_dump(mode="json")[key]
        said = [field.description] if field.description else []
        # A comment on a value that was changed on the command line would be on another one.
        if _plain(written.content.get(name, {}).get(key)) == value:
            said += written.notes.get((name, key), ())
        for line in _lines(said):
            table.add(tomlkit.comment(line))
        table.add(key, tomlkit.item(value))
    return table


def _lines(said: list[str]) -> Iterator[str]:
    for text in said:
        yield from textwrap.wrap(" ".join(text.split()), _WIDTH)


def _plain(value: object) -> object:
    return list(value) if isinstance(value, (list, tuple)) else value
