"""Mini-Kinetics: a subset of Kinetics, as lists of its videos or as the names of its classes."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from preprocess.datasets.annotations import (
    place,
    read_json,
    read_lines,
    read_names,
    shown,
    split_in_name,
    to_index,
)
from preprocess.datasets.kinetics import Clip, clip_records, read_clips
from preprocess.datasets.video_files import VideoFiles, require_folder
from preprocess.errors import DataError
from preprocess.records import Listing, printable

_FILE_NAME = re.compile(r"(?P<id>.+?)(?:_(?P<start>[0-9]{6,})_(?P<end>[0-9]{6,}))?(?:\.[A-Za-z0-9]{2,4})?")
_LONGEST_NAME = 256
_VIDEO_SUFFIX = re.compile(r"\.(?:mp4|mkv|webm|avi)\b", re.IGNORECASE)


@dataclass
class _Given:
    """The annotation files by what they are."""

    lists: list[Path]
    kinetics: list[Path]
    converter: Path | None = None
    names: Path | None = None


def list_mini_kinetics(annotations: Sequence[Path], videos: Path, *, trim: bool = False) -> Listing:
    """List the videos of a subset of Kinetics, in the order of the files. No video is opened.

    ``annotations`` are either lists with a line ``PATH LABEL`` for each video, as ``.../ID.mp4 186``, named with a
    word train, val or test; beside them a JSON converter from the index of a class in Kinetics to that in the subset,
    and the csv files of Kinetics for names and times, if there are any. Or they are csv files of Kinetics and one file
    with the names of the classes to take, one per line. For where videos lie and for ``trim`` see ``list_kinetics``.

    Raises DataError for a fault in a file, naming file and row, also where the files do not agree, and if ``videos``
    is missing or no folder.
    """
    require_folder(videos)
    given = _sort_out(annotations)
    if given.lists:
        return _of_lists(given, videos, trim)
    if given.names is None or not given.kinetics:
        raise DataError(
            f"{', '.join(map(printable, annotations)) or 'no file'}: neither lists of videos, nor Kinetics csv files "
            "with a file of class names: name those"
        )
    classes = read_names(given.names)
    known = {clip.label for path in given.kinetics for clip in read_clips(path)}
    _check_names(given.names, classes, known)
    numbers = {name: i for i, name in enumerate(classes)}
    clips = (clip for path in given.kinetics for clip in read_clips(path) if clip.label in numbers)
    records = clip_records(clips, numbers, VideoFiles(videos), trim)
    return Listing("mini-kinetics", videos, tuple(map(printable, classes)), records, {"trim": trim})


def is_list(path: Path) -> bool:
    """Whether a text file is a list of videos, not one of names, by its first line and its name."""
    line = next((line for _, line in read_lines(path) if not _is_comment(line)), "")
    return bool(_VIDEO_SUFFIX.search(line) or (split_in_name(path) and re.search(r"\s[0-9]+\s*$", line)))


def _sort_out(annotations: Sequence[Path]) -> _Given:
    given = _Given([], [])
    for path in annotations:
        suffix = path.suffix.lower()
        if suffix == ".csv":
            given.kinetics.append(path)
        elif suffix == ".json":
            if given.converter:
                raise DataError(f"{printable(given.converter)}, {printable(path)}: name one converter")
            given.converter = path
        elif is_list(path):
            given.lists.append(path)
        else:
            if given.names:
                raise DataError(f"{printable(given.names)}, {printable(path)}: name one file of class names")
            given.names = path
    return given


def _of_lists(given: _Given, videos: Path, trim: bool) -> Listing:
    converter = _read_converter(given.converter) if given.converter else None
    names = read_names(given.names) if given.names else None
    if converter and names and given.names and len(converter) != len(names):
        raise DataError(
            f"{printable(given.names)} has {len(names)} names, {given.converter} {len(converter)} classes: mend one"
        )
    known = converter or names
    count = 0
    ids: set[str] = set()
    for path in given.lists:
        for clip in _read_list(path, len(known) if known else None):
            count = max(count, int(clip.label) + 1)
            ids.add(clip.youtube_id)
    if not count:
        raise DataError(f"{', '.join(map(printable, given.lists))}: no line lists a video")
    count = len(known) if known else count

    of_kinetics, clips_of = _read_kinetics(given.kinetics, ids)
    if names and given.names and of_kinetics:
        _check_names(given.names, names, set(of_kinetics))
    if converter and given.converter and of_kinetics:
        converted = _convert(given.converter, converter, of_kinetics)
        if names and names != converted:
            at = next(i for i in range(count) if names[i] != converted[i])
            raise DataError(
                f"{place(given.names or given.converter, at + 1)}: class {at} is {shown(names[at])}, but "
                f"{shown(converted[at])} by {printable(given.converter)}: mend one of them"
            )
        names = converted

    notes: list[str] = []
    if names:
        classes = names
    elif converter:
        classes = tuple(f"kinetics class {index}" for index in converter)
        notes.append("the names of the classes are not known: name the Kinetics csv files among the annotations")
    else:
        classes = tuple(f"class {index}" for index in range(count))
        notes.append("the names of the classes are not known: name the converter and the Kinetics csv files too")
    clips = _with_times(given.lists, count, names, clips_of, notes if trim else [])
    records = clip_records(
        clips, {str(i): i for i in range(count)}, VideoFiles(videos), trim, {str(i): classes[i] for i in range(count)}
    )
    return Listing("mini-kinetics", videos, tuple(map(printable, classes)), records, {"trim": trim}, notes)


def _read_list(path: Path, classes: int | None) -> Iterator[Clip]:
    """A clip for each line ``PATH LABEL``, with the times that the file's name has."""
    split = split_in_name(path)
    if not split:
        raise DataError(f"{printable(path)}: its name has no word train, val or test: rename it")
    for row, line in read_lines(path):
        if _is_comment(line):
            continue
        where = place(path, row)
        parts = line.rsplit(None, 1)
        name = re.split(r"[/\\]", parts[0].strip())[-1]
        found = _FILE_NAME.fullmatch(name) if len(parts) == 2 and len(name) < _LONGEST_NAME else None
        if not found:
            raise DataError(f"{where}: is no video with its label, as in ID.mp4 186: mend it")
        label = parts[1]
        index = to_index(label, where) if classes is None else to_index(label, where, classes)
        times = (float(found["start"]), float(found["end"])) if found["start"] else None
        if times and times[0] >= times[1]:
            raise DataError(f"{where}: from {times[0]:g} to {times[1]:g} is no time: mend it")
        yield Clip(path, row, found["id"], times, str(index), split)


def _read_converter(path: Path) -> tuple[int, ...]:
    """The index in Kinetics of each class of the subset."""
    content = read_json(path)
    if not isinstance(content, dict) or not content:
        raise DataError(f'{printable(path)} is no object of Kinetics class to class, as in {{"18": 0}}: mend it')
    of_subset: dict[int, int] = {}
    indices: set[int] = set()
    for key, value in content.items():
        where = f"{printable(path)} class {shown(key)}"
        index = to_index(key, where)
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < len(content):
            raise DataError(f"{where}: leads to no class from 0 to {len(content) - 1}: mend it")
        if value in of_subset:
            raise DataError(f"{where}: leads to class {value}, as class '{of_subset[value]}' does: mend it")
        if index in indices:
            raise DataError(f"{where}: is there twice: mend it")
        indices.add(index)
        of_subset[value] = index
    return tuple(of_subset[value] for value in range(len(content)))


def _convert(path: Path, converter: Sequence[int], of_kinetics: Sequence[str]) -> tuple[str, ...]:
    if max(converter) >= len(of_kinetics):
        raise DataError(
            f"{printable(path)} class '{max(converter)}': the Kinetics csv files have {len(of_kinetics)} classes: "
            "name those of all of Kinetics"
        )
    return tuple(of_kinetics[index] for index in converter)


def _read_kinetics(paths: Sequence[Path], ids: set[str]) -> tuple[tuple[str, ...], Mapping[str, list[Clip]]]:
    """The classes of Kinetics in alphabetical order, and its clips of the videos that are wanted."""
    labels: set[str] = set()
    clips: dict[str, list[Clip]] = defaultdict(list)
    for path in paths:
        for clip in read_clips(path):
            labels.add(clip.label)
            if clip.youtube_id in ids:
                clips[clip.youtube_id].append(clip)
    return tuple(sorted(labels - {""})), dict(clips)


def _check_names(path: Path, names: Sequence[str], known: set[str]) -> None:
    for row, name in enumerate(names, 1):
        if name not in known:
            raise DataError(f"{place(path, row)}: {shown(name)} is no class of the Kinetics csv files: mend it")


def _with_times(
    lists: Sequence[Path], count: int, names: Sequence[str] | None, clips_of: Mapping[str, list[Clip]], notes: list[str]
) -> Iterator[Clip]:
    """The clips of the lists, with the times that Kinetics has for them, checked against its labels."""
    without = 0
    for path in lists:
        for clip in _read_list(path, count):
            same = clips_of.get(clip.youtube_id, [])
            if names and same:
                name = names[int(clip.label)]
                fitting = [other for other in same if other.label in (name, "")]
                if not fitting:
                    raise DataError(
                        f"{place(path, clip.row)}: label {clip.label} is {shown(name)}, but {same[0].youtube_id} is "
                        f"{shown(same[0].label)} by {place(same[0].path, same[0].row)}: mend one of them"
                    )
                same = fitting
            # Of several clips of one video, one of the same split.
            same = sorted(same, key=lambda other: other.split != clip.split)
            times = clip.times or (same[0].times if same else None)
            without += times is None
            yield Clip(path, clip.row, clip.youtube_id, times, clip.label, clip.split)
    if without:
        notes.append(f"{without} video(s) have no times in the annotations and are not trimmed")


def _is_comment(line: str) -> bool:
    return not line.strip() or line.lstrip().startswith("#")
