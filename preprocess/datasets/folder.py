"""Datasets laid out as folders: DIR/CLASS/* or DIR/{train,val}/CLASS/*."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

from preprocess.datasets.annotations import SPLITS
from preprocess.errors import DataError
from preprocess.records import Listing, VideoRecord, draw_split, printable, safe_key

_SPLITS = ("train", "val")


def list_folder(root: Path, val_fraction: float) -> Listing:
    """List the videos of a folder. Everything in a class folder that is not hidden counts as one; none is opened.

    Classes are the folders' names in alphabetical order, over both splits where the folder has them. Without
    ``train`` and ``val`` folders, ``val_fraction`` of each class is held out (see ``draw_split``).

    Raises DataError if ``root`` is missing, no folder, or holds no class folder with a file in it, or if all its
    folders are named like splits but not train and val; and OSError if a folder cannot be read.
    """
    if not root.is_dir():
        raise DataError(
            f"{root} is {'no folder' if root.exists() else 'missing'}: name the folder that holds a folder per class"
        )
    notes = []
    names = {folder.name for folder in _folders(root)}
    has_splits = names == {"train"} or names >= set(_SPLITS)
    if names and not has_splits and all(name.lower() in SPLITS for name in names):
        raise DataError(
            f"{root} holds folders named like splits ({', '.join(sorted(names))}), not {' and '.join(_SPLITS)}: rename "
            "them, or name one of them with --videos"
        )
    split_roots = {split: root / split for split in _SPLITS if split in names} if has_splits else {"": root}
    if has_splits and names - set(_SPLITS):
        beside = ", ".join(sorted(map(printable, names - set(_SPLITS))))
        notes.append(f"{printable(root)}: folders beside {' and '.join(_SPLITS)} ignored: {beside}")

    found: list[tuple[str, str, Path]] = []
    class_names: set[str] = set()
    for split, split_root in split_roots.items():
        loose = sum(1 for path in split_root.iterdir() if path.is_file() and not path.name.startswith("."))
        if loose:
            notes.append(f"{printable(split_root)}: {loose} file(s) beside the class folders ignored")
        for class_folder in _folders(split_root):
            class_names.add(class_folder.name)
            found += [(split, class_folder.name, path) for path in _files(class_folder)]
    classes = sorted(class_names)
    if not found:
        raise DataError(f"{root} holds no videos: expected {root}/CLASS/VIDEO or {root}/{{train,val}}/CLASS/VIDEO")

    empty = set(classes) - {class_name for _, class_name, _ in found}
    notes += [f"class '{printable(name)}' holds no file" for name in sorted(empty)]
    number = {name: i for i, name in enumerate(classes)}
    # A file whose name without the suffix is that of another file keeps the suffix in its key.
    names_taken = Counter(name for _, _, path in found for name in {path, path.with_suffix("")})
    records = []
    for split, class_name, path in found:
        name = path.with_suffix("")
        name = path if names_taken[name] > 1 else name
        inside = str(name.relative_to(root / split / class_name))
        records.append(VideoRecord(safe_key(class_name, inside), path, (number[class_name],), split))
    records = sorted(records, key=lambda r: (r.split, r.key)) if has_splits else draw_split(records, val_fraction)
    names_of_classes = tuple(printable(name) for name in classes)
    options = {"val_fraction": val_fraction}
    return Listing("folder", root, names_of_classes, records, options, notes, takes_every_file=True)


def _folders(root: Path) -> list[Path]:
    return sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))


def _files(class_folder: Path) -> list[Path]:
    """What lies below a class folder, also in subfolders, hidden things left out. Links to folders are not followed."""
    found: list[Path] = []

    def fail(error: OSError) -> None:
        raise error

    for folder, subfolders, files in os.walk(class_folder, onerror=fail):
        links = [name for name in subfolders if (Path(folder) / name).is_symlink()]
        found += [Path(folder) / name for name in files + links if not name.startswith(".")]
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
    return sorted(found)
