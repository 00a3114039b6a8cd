"""Finds a dataset's annotations and videos in the work folder, where no option names them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from preprocess.datasets.mini_kinetics import is_list
from preprocess.errors import DataError, UsageError
from preprocess.records import printable

_DATA = Path("data")
_BEGINNING = 1 << 16


@dataclass(frozen=True)
class Found:
    """The annotation files of a dataset, the folder of its videos, and the NAME that its shards go by."""

    annotations: tuple[Path, ...]
    videos: Path
    name: str


@dataclass(frozen=True)
class _Kind:
    """What folders of a dataset may be called, which of a folder's files are its annotations, where videos lie.

    ``choose`` returns the sets of annotations that the files make: none, one, or several to choose from.
    """

    prefixes: tuple[str, ...]
    choose: Callable[[Sequence[Path]], list[list[Path]]]
    wanted: str
    video_folders: Callable[[Sequence[Path]], tuple[str, ...]] = lambda annotations: ("videos",)


def find_dataset(kind: str) -> Found:
    """The one dataset of a kind: kinetics, mini-kinetics, something or activitynet.

    It is looked for in data/NAME, where NAME begins with the kind, then in NAME, then in the current folder. Its
    annotations are recognised by name and content in ``annotations``, in a folder in that, beside it, or in a folder
    beside it. Raises UsageError if there is none, or several, which it lists.
    """
    about = _KINDS[kind]
    other = tuple(prefix for name, one in _KINDS.items() if name != kind for prefix in one.prefixes)
    for bases in (_called(_DATA, about.prefixes), _called(Path(), about.prefixes), [Path()]):
        found = [dataset for base in bases for dataset in _in_base(base, kind, other if base == Path() else ())]
        if len(found) > 1:
            listed = "; ".join(", ".join(map(printable, dataset.annotations)) for dataset in found)
            raise UsageError(
                f"there are {len(found)} {kind} datasets, choose with --annotations and --videos: {listed}"
            )
        if found:
            return found[0]
    raise UsageError(
        f"there is no {kind} dataset in data/{kind}*, {kind}* or here ({about.wanted}): put one in "
        f"data/{kind}/annotations and data/{kind}/videos, or name them with --annotations and --videos"
    )


def _called(folder: Path, prefixes: tuple[str, ...]) -> list[Path]:
    return [path for path in _folders(folder) if path.name.lower().startswith(prefixes)]


def _in_base(base: Path, kind: str, others: tuple[str, ...]) -> list[Found]:
    """The datasets of the first place in a base that has any; folders called like ``others`` are not looked into."""
    about = _KINDS[kind]
    inside = base / "annotations"
    beside = [path for path in _folders(base) if path != inside and not path.name.lower().startswith(others)]
    for places in ([inside], _folders(inside), [base], beside):
        sets = [(place, files) for place in places for files in about.choose(_files(place))]
        if sets:
            name = base.name or kind
            return [
                Found(tuple(files), _videos(base, place, about.video_folders(files)), name) for place, files in sets
            ]
    return []


def _videos(base: Path, place: Path, names: Iterable[str]) -> Path:
    """The folder of videos in the base, else beside the annotations, else the base itself."""
    candidates = [folder / name for folder in (base, place) for name in names]
    return next((path for path in candidates if path.is_dir()), base)


def _folders(folder: Path) -> list[Path]:
    return _sorted(folder, Path.is_dir)


def _files(folder: Path) -> list[Path]:
    return _sorted(folder, Path.is_file)


def _sorted(folder: Path, wanted: Callable[[Path], bool]) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if not path.name.startswith(".") and wanted(path))


def _beginning(path: Path) -> str:
    with path.open("rb") as file:
        return file.read(_BEGINNING).decode("utf-8-sig", "replace")


def _with_suffix(files: Iterable[Path], *suffixes: str) -> list[Path]:
    return [path for path in files if path.suffix.lower() in suffixes]


def _kinetics_csv(files: Sequence[Path]) -> list[Path]:
    def has_ids(path: Path) -> bool:
        header = _beginning(path).partition("\n")[0]
        return "youtube_id" in [name.strip().strip('"').lower() for name in header.split(",")]

    return [path for path in _with_suffix(files, ".csv") if has_ids(path)]


def _kinetics(files: Sequence[Path]) -> list[list[Path]]:
    found = _kinetics_csv(files)
    return [found] if found else []


def _mini_kinetics(files: Sequence[Path]) -> list[list[Path]]:
    """Lists with what is there of converters and csv files; else csv files with one file of names."""

    def is_a_list(path: Path) -> bool:
        try:
            return is_list(path)
        except DataError:
            return False

    texts = _with_suffix(files, ".txt")
    lists = [path for path in texts if is_a_list(path)]
    csv_files = _kinetics_csv(files)
    converters = [path for path in _with_suffix(files, ".json") if "converter" in path.name.lower()]
    if lists:
        return [lists + converters + csv_files]
    called_names = [path for path in texts if re.search("names|class", path.name.lower())]
    names = called_names or texts
    return [[*csv_files, path] for path in names] if csv_files else []


def _something(files: Sequence[Path]) -> list[list[Path]]:
    """Version 1 in csv files, version 2 in JSON files."""
    versions = []
    for suffix in (".csv", ".json"):
        named: dict[str, list[Path]] = {role: [] for role in ("labels", "train", "validation", "test")}
        for path in _with_suffix(files, suffix):
            role = re.search(r"(?:^|[^a-z])(labels|train|validation|test)$", path.stem.lower())
            if role:
                named[role[1]].append(path)
        if named["labels"] and (named["train"] or named["validation"]):
            versions.append([path for paths in named.values() for path in paths])
    return versions


def _something_folders(annotations: Sequence[Path]) -> tuple[str, ...]:
    version = "v1" if annotations[0].suffix.lower() == ".csv" else "v2"
    return (f"20bn-something-something-{version}", "videos", "frames", "rawframes")


def _activitynet(files: Sequence[Path]) -> list[list[Path]]:
    def is_one(path: Path) -> bool:
        called = re.search("activity_?net", path.name.lower()) is not None
        return called or re.search(r'"(?:taxonomy|database)"\s*:', _beginning(path)[:4096]) is not None

    return [[path] for path in _with_suffix(files, ".json") if is_one(path)]


_KINDS = {
    "kinetics": _Kind(("kinetics",), _kinetics, ".csv files with a column youtube_id"),
    "mini-kinetics": _Kind(
        ("mini-kinetics", "mini_kinetics", "minikinetics"),
        _mini_kinetics,
        "lists of lines like ID.mp4 186 in .txt files, or Kinetics .csv files with a .txt file of class names",
    ),
    "something": _Kind(
        ("something", "20bn-something"),
        _something,
        "files whose names end in labels, train and validation, .csv or .json",
        _something_folders,
    ),
    "activitynet": _Kind(("activitynet", "activity_net"), _activitynet, "a .json file with taxonomy and database"),
}
