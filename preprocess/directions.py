"""What a horizontal flip makes of a class whose name says left or right."""

from __future__ import annotations

import re
from collections.abc import Sequence

# An underscore parts words as a space does.
_DIRECTION = re.compile(r"(?<![^\W_])(?:left|right)(?![^\W_])", re.IGNORECASE)


def flip_of(classes: Sequence[str]) -> tuple[int, ...]:
    """For each class the one that its videos show when they are flipped.

    That is the class itself if its name has neither ``left`` nor ``right`` as a word; else the class that has the two
    words exchanged, in the same case; or -1 if there is none: its videos must not be flipped.
    """
    number = {name: i for i, name in enumerate(classes)}
    flipped = []
    for i, name in enumerate(classes):
        mirrored = _mirrored(name)
        if mirrored == name:
            flipped.append(i)
        else:
            # A spelling that does not come back, as lEFT, has no partner; nor has a name that two classes share.
            partner = number.get(mirrored, -1)
            flipped.append(partner if _mirrored(mirrored) == name and number[name] == i else -1)
    return tuple(flipped)


def _mirrored(name: str) -> str:
    def other(found: re.Match[str]) -> str:
        word = found[0]
        exchanged = "right" if word.lower() == "left" else "left"
        return exchanged.upper() if word.isupper() else exchanged.title() if word[0].isupper() else exchanged

    return _DIRECTION.sub(other, name)
