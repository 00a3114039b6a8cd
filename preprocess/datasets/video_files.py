"""The video files below a folder, found in one walk and looked up by their names without suffix."""

from __future__ import annotations

import errno
import os
import re
from bisect import bisect_left
from collections.abc import Callable
from pathlib import Path

from preprocess.datasets.annotations import SPLITS
from preprocess.errors import DataError

# The first is preferred where a folder holds a video twice.
SUFFIXES = (".mp4", ".mkv", ".webm")
_REPLACEMENT = "replacement for corrupted k400"
_TIMES = re.compile(r"_[0-9]{6,}_[0-9]{6,}")


def require_folder(videos: Path) -> None:
    """Raises DataError if the folder of videos is not there."""
    if not videos.is_dir():
        raise DataError(f"{videos} is {'no folder' if videos.exists() else 'missing'}: name the folder of the videos")


class VideoFiles:
    """What lies below ``root`` and ends in one of SUFFIXES, in any case; hidden files and folders left out.

    Links to folders are followed; a folder that several paths lead to is gone through once. Whatever a look-up asks
    for, it finds only what the walk found.

    Raises DataError if ``root`` is missing or no folder, and OSError if a folder cannot be read.
    """

    def __init__(self, root: Path) -> None:
        require_folder(root)
        self.root = root
        # Relative to the root, "" or ending in a slash.
        self._folders: list[str] = []
        # For each stem the number of its folder, and its suffix. There may be hundreds of thousands,
        # and few are found twice.
        self._at: dict[str, tuple[int, str] | list[tuple[int, str]]] = {}
        self._sorted: list[str] | None = None
        self._walk()

    def __len__(self) -> int:
        """How many different stems there are."""
        return len(self._at)

    def find(self, *stems: str, split: str = "", class_name: str = "") -> Path | None:
        """The file named by one of ``stems``, None if there is none.

        Of several the one in a folder of replacements for corrupted files comes first, then by the order of
        ``stems``, then one below a folder named like the split, or like the class, then by the order of SUFFIXES and
        of the paths.
        """
        found: list[tuple[int, str, int, str]] = []
        for order, stem in enumerate(dict.fromkeys(stems)):
            places = self._at.get(stem, ())
            found += [(order, stem, *place) for place in (places if isinstance(places, list) else (places,)) if place]
        if len(found) > 1:
            found = [min(found, key=lambda place: self._rank(place, split, class_name))]
        return self.root / f"{self._folders[found[0][2]]}{found[0][1]}{found[0][3]}" if found else None

    def find_id(
        self, youtube_id: str, times: tuple[float, float] | None = None, *, split: str = "", class_name: str = ""
    ) -> Path | None:
        """The file of a YouTube video, None if there is none.

        First ID_START_END with the times in whole seconds, of six digits or more, or any times if none are given;
        then ID and v_ID, an untrimmed download. Of several as in ``find``.
        """
        cut = [f"{youtube_id}_{stamps(times)}"] if times else self._cuts(youtube_id)
        return self.find(*cut, youtube_id, f"v_{youtube_id}", split=split, class_name=class_name)

    def _cuts(self, youtube_id: str) -> list[str]:
        """The stems ID_START_END."""
        self._sorted = self._sorted or sorted(self._at)
        found = []
        begin = f"{youtube_id}_0"
        for at in range(bisect_left(self._sorted, begin), len(self._sorted)):
            stem = self._sorted[at]
            if not stem.startswith(begin[:-1]) or not stem[len(begin) - 1].isdigit():
                break
            if _TIMES.fullmatch(stem, len(youtube_id)):
                found.append(stem)
        return found

    def _rank(
        self, place: tuple[int, str, int, str], split: str, class_name: str
    ) -> tuple[bool, int, bool, bool, int, str]:
        order, stem, folder, suffix = place
        path = f"{self._folders[folder]}{stem}{suffix}"
        above = [_plain(name) for name in Path(self._folders[folder]).parts]
        return (
            _REPLACEMENT not in above,
            order,
            not (split and any(SPLITS.get(name) == split for name in above)),
            not (class_name and _plain(class_name) in above),
            SUFFIXES.index(suffix.lower()),
            path,
        )

    def _walk(self) -> None:
        gone_through: set[tuple[int, int]] = set()
        # Links come last, so that a folder goes by its own path where it has one below the root.
        folders, links = [""], list[str]()
        while folders:
            folder = folders.pop()
            status = (self.root / folder).stat()
            if (status.st_dev, status.st_ino) not in gone_through:
                gone_through.add((status.st_dev, status.st_ino))
                below, linked = self._add_files_of(folder)
                folders += sorted(below, reverse=True)
                links += linked
            if not folders:
                folders, links = sorted(links, reverse=True), []

    def _add_files_of(self, folder: str) -> tuple[list[str], list[str]]:
        """Also says which folders there are in this one, and which links to folders."""
        number = len(self._folders)
        prefix = f"{folder}/" if folder else ""
        self._folders.append(prefix)
        below, links = list[str](), list[str]()
        # One tuple for many files saves memory.
        places: dict[str, tuple[int, str]] = {}
        with os.scandir(self.root / folder) as entries:
            for entry in entries:
                stem, dot, ending = entry.name.rpartition(".")
                suffix = dot + ending
                if entry.name.startswith("."):
                    continue
                if _leads_to(entry.is_dir):
                    (links if entry.is_symlink() else below).append(prefix + entry.name)
                elif suffix.lower() in SUFFIXES and _leads_to(entry.is_file):
                    self._add(stem, places.setdefault(suffix, (number, suffix)))
        return below, links

    def _add(self, stem: str, place: tuple[int, str]) -> None:
        before = self._at.setdefault(stem, place)
        if isinstance(before, list):
            before.append(place)
        elif before is not place:
            self._at[stem] = [before, place]


def _leads_to(kind: Callable[[], bool]) -> bool:
    """Whether an entry of a folder is, or is a link to, such a thing. A link that leads round in a circle is not."""
    try:
        return kind()
    except OSError as error:
        if error.errno == errno.ELOOP:
            return False
        raise


def _plain(name: str) -> str:
    return name.lower().replace("_", " ")


def stamps(times: tuple[float, float]) -> str:
    """Start and end as the names of cut files have them, in whole seconds of six digits or more."""
    return "_".join(f"{int(time):06d}" for time in times)
