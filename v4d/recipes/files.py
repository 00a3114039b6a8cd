"""Recipes as TOML files: those that come with v4d and the user's own, each alone or as changes to another one."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import tomlkit
from pydantic import ValidationError
from tomlkit.exceptions import TOMLKitError
from tomlkit.items import Comment, Table

from preprocess.errors import UsageError
from v4d.config import Recipe, nearest


@dataclass(frozen=True)
class Written:
    """What a recipe's file, and those it is based on, say; ``bases`` are their names, the next one first.

    ``notes`` are the comments right above a key, by section and key: why it has the value that it has.
    """

    content: dict[str, Any]
    bases: tuple[str, ...]
    notes: dict[tuple[str, str], tuple[str, ...]]


@cache
def _packaged_files() -> dict[str, Path]:
    return {file.stem: file for file in sorted(Path(__file__).parent.glob("*.toml"))}


@cache
def packaged_recipes() -> dict[str, Recipe]:
    """The recipes that come with v4d, by name."""
    return {name: load_recipe(name) for name in _packaged_files()}


def load_recipe(name: str, settings: tuple[str, ...] = ()) -> Recipe:
    """A packaged recipe, or one from a TOML file, with ``settings`` of the form ``section.key=value`` over it.

    A file may name a recipe that it changes, ``base = "NAME"``: a packaged one, or a TOML file beside it. Values of
    settings are TOML (``model.blocks_4d=[]``); what is no TOML is taken as a string.
    Raises UsageError for an unknown recipe, section, key or value, and for bases that lead back to themselves.
    """
    content = read_recipe(name).content
    for setting in settings:
        path, equals, value = setting.partition("=")
        section, dot, key = path.strip().partition(".")
        if not equals or not dot:
            raise UsageError(f"--set {setting}: expected section.key=value, as in optim.lr=0.02")
        if not isinstance(content.get(section, {}), dict):
            raise UsageError(f"--set {setting}: '{section}' is no section")
        content[section] = {**content.get(section, {}), key: _value(value)}
    return _validated(content, name)


def read_recipe(name: str) -> Written:
    """What the file of a recipe says, packaged or the user's. Raises UsageError as ``load_recipe`` does."""
    packaged = _packaged_files()
    if name in packaged:
        return _read(name, packaged[name], None, ())
    if Path(name).is_file():
        return _read(Path(name).stem, Path(name), Path(name).parent, ())
    raise UsageError(f"there is no recipe '{name}'{nearest(name, list(packaged))}; there are {', '.join(packaged)}")


def _read(name: str, file: Path, folder: Path | None, above: tuple[str, ...]) -> Written:
    """``folder`` is where a base may be, besides among the packaged ones; ``above`` are the files that led here."""
    if str(file) in above:
        raise UsageError(f"recipe {name} is based on itself: {' <- '.join(Path(one).stem for one in (*above, name))}")
    try:
        document = tomlkit.parse(file.read_text())
    except (TOMLKitError, UnicodeDecodeError) as error:
        raise UsageError(f"{file} is no TOML: {error}") from None
    if not document.unwrap():
        raise UsageError(f"{file} is no recipe: it is empty")
    own = {"name": name, **document.unwrap()}
    notes = {(section, key): said for section, table in document.items() for key, said in _notes(table)}
    base = own.pop("base", "")
    if not base:
        return Written(own, (), notes)
    if not isinstance(base, str):
        raise UsageError(f"recipe {name}: base: name a recipe, not {base!r}")
    packaged = _packaged_files()
    found = packaged.get(base) or (folder or Path()) / base
    if not found.is_file() or (folder is None and base not in packaged):
        raise UsageError(f"recipe {name}: there is no recipe '{base}' to be based on{nearest(base, list(packaged))}")
    below = _read(Path(base).stem, found, folder, (*above, str(file)))
    content = {**below.content, "about": ""}
    for section, values in own.items():
        known = content.get(section)
        content[section] = {**known, **values} if isinstance(known, dict) and isinstance(values, dict) else values
    kept = {place: said for place, said in below.notes.items() if place[1] not in own.get(place[0], {})}
    return Written(content, (Path(base).stem, *below.bases), {**kept, **notes})


def _notes(table: object) -> list[tuple[str, tuple[str, ...]]]:
    """The keys of a section that comments stand above."""
    found, above = [], list[str]()
    for key, item in table.value.body if isinstance(table, Table) else ():
        if isinstance(item, Comment):
            above.append(item.trivia.comment.lstrip("# "))
            continue
        if key is not None and above:
            found.append((key.key, tuple(above)))
        above = []
    return found


def _value(text: str) -> Any:
    try:
        return tomlkit.parse(f"value = {text}").unwrap()["value"]
    except TOMLKitError:
        return text


def _validated(content: dict[str, Any], name: str) -> Recipe:
    try:
        return Recipe.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        place = [str(part) for part in first["loc"]]
        if first["type"] == "extra_forbidden":
            section: Any = Recipe if len(place) == 1 else Recipe.model_fields[place[0]].annotation
            hint = nearest(place[-1], list(section.model_fields))
            raise UsageError(f"recipe {name}: there is no '{'.'.join(place)}'{hint}") from None
        message = first["msg"].removeprefix("Value error, ")
        raise UsageError(f"recipe {name}: {'.'.join(place)}: {message}, not {first['input']!r}"[:500]) from None
