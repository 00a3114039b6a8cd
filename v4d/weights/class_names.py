"""Names of classes from a file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from preprocess.errors import DataError


def read_class_names(path: Path) -> tuple[str, ...]:
    """The names in the order of their numbers: a line each, or as JSON a list, or an object of numbers by name.

    The last is how pytorchvideo has Kinetics' names, with quotes around some of them that are left out. Raises
    DataError if the file is missing, the numbers are not 0, 1, 2 and so on, or a name is empty: left out, it would
    shift the numbers of those behind it.
    """
    try:
        text = path.read_text(encoding="utf-8")
        content: Any = json.loads(text) if path.suffix == ".json" else text.splitlines()
    except FileNotFoundError:
        raise DataError(f"there is no file of classes {path}") from None
    except (ValueError, OSError) as error:
        raise DataError(f"{path} is no list of classes: {error}") from None
    if isinstance(content, dict):
        numbers = list(content.values())
        if any(type(number) is not int for number in numbers) or sorted(numbers) != list(range(len(numbers))):
            raise DataError(f"{path} does not number its {len(numbers)} classes from 0 to {len(numbers) - 1}")
        content = [_without_quotes(name.strip()) for name in sorted(content, key=content.__getitem__)]
    if not isinstance(content, list) or not all(isinstance(name, str) for name in content):
        raise DataError(f"{path} is no list of classes, nor an object of numbers by name")
    names = [name.strip() for name in content]
    while path.suffix != ".json" and names and not names[-1]:
        # The end of a text, not a class.
        names.pop()
    if not names:
        raise DataError(f"{path} names no class")
    if "" in names:
        raise DataError(f"{path}: class {names.index('')} has an empty name")
    return tuple(names)


def _without_quotes(name: str) -> str:
    return name[1:-1] if len(name) > 1 and name[0] == name[-1] == '"' else name
