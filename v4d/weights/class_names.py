"""Names of classes from a file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from preprocess.errors import DataError


def read_class_names(path: Path) -> tuple[str, ...]:
    """The names in the order of their numbers: a line each, or as JSON a list, or an object of numbers by name.

    The last is how pytorchvideo has Kinetics' names, with quotes in them that are left out. Raises DataError if the
    file is missing, or the numbers are not 0, 1, 2 and so on.
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
        content = sorted(content, key=content.__getitem__)
    if not isinstance(content, list) or not all(isinstance(name, str) for name in content):
        raise DataError(f"{path} is no list of classes, nor an object of numbers by name")
    names = tuple(name.strip().strip('"') for name in content if name.strip())
    if not names:
        raise DataError(f"{path} names no class")
    return names
