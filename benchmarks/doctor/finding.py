"""What a check finds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Finding:
    """One line on one thing.

    ``state`` is "slow" where training runs with it, but not as fast as it could, and "missing" where something fails;
    where that is training itself it is ``needed``. ``advice`` is what to do about it.
    """

    about: str
    state: Literal["ok", "slow", "missing"]
    said: str
    advice: str = ""
    needed: bool = False

    @property
    def fails(self) -> bool:
        """Whether training cannot run for it."""
        return self.needed and self.state == "missing"
