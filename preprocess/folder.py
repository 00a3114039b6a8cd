"""Datasets laid out as folders: DIR/CLASS/* or DIR/{train,val}/CLASS/*."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from preprocess.errors import DataError
from preprocess.records import Listing, VideoRecord, draw_split, printable, safe_key

_SPLITS = ("train", "val")


def list_folder(root: Path, val_fraction: float) -> Listing:
    """List the videos of a folder. Every file that is not hidden counts as one; none is opened.

    Classes are the folders' names in alphabetical order, over both splits where the folder has them. Without
    ``train`` and ``val`` folders, ``val_fraction`` of each class is held out (see ``draw_split``).

    Raises DataError if ``root`` is missing, no folder, or holds no class folder with a file in it.
    """
    if not root.is_dir():
        raise DataError(
            f"{root} is {'no folder' if root.exists() else 'missing'}: name the folder that holds a folder per class"
        )
    notes = []
    has_splits = {d.name for d in _folders(root)} >= {"train"} and {d.name for d in _folders(root)} <= set(_SPLITS)
    split_roots = {split: root / split for split in _SPLITS if (root / split).is_dir()} if has_splits else {"": root}

    found: list[tuple[str, str, Path]] = []
    class_names: set[str] = set()
    for split, split_root in split_roots.items():
        loose = sum(1 for path in split_root.iterdir() if path.is_file() and not path.name.startswith("."))
        if loose:
            notes.append(f"{split_root}: {loose} file(s) beside the class folders ignored")
        for class_folder in _folders(split_root):
            class_names.add(class_folder.name)
            found += [(split, class_folder.name, path) for path in _files(class_folder)]
    classes = sorted(class_names)
    if not found:
        raise DataError(f"{root} holds no videos: expected {root}/CLASS/VIDEO or {root}/{{train,val}}/CLASS/VIDEO")

    empty = set(classes) - {class_name for _, class_name, _ in found}
    notes += [f"class '{printable(name)}' holds no file" for name in sorted(empty)]
    number = {name: i for i, name in enumerate(classes)}
    # Two files that differ only in their suffix keep it in their keys.
    stems = Counter(path.with_suffix("") for _, _, path in found)
    records = []
    for split, class_name, path in found:
        name = path if stems[path.with_suffix("")] > 1 else path.with_suffix("")
        inside = str(name.relative_to(root / split / class_name))
        records.append(VideoRecord(safe_key(class_name, inside), path, (number[class_name],), split))
    records = sorted(records, key=lambda r: (r.split, r.key)) if has_splits else draw_split(records, val_fraction)
    return Listing("folder", root, tuple(printable(name) for name in classes), tuple(records), tuple(notes))


def _folders(root: Path) -> list[Path]:
    return sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))


def _files(class_folder: Path) -> list[Path]:
    """Files below a class folder, also in subfolders, hidden ones left out."""
    return sorted(
        path
        for path in class_folder.rglob("*")
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(class_folder).parts)
    )
