"""ActivityNet: one JSON file of untrimmed videos with their segments."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from preprocess.datasets.annotations import SPLITS, read_json, shortened, shown, to_text
from preprocess.datasets.video_files import SUFFIXES, VideoFiles, require_folder
from preprocess.errors import DataError
from preprocess.records import Listing, VideoRecord, printable, safe_key


def list_activitynet(annotations: Path, videos: Path) -> Listing:
    """List the videos of an ActivityNet JSON file in its order. No video is opened.

    Classes are the leaves of its taxonomy in alphabetical order. A video has every label of its annotations, and
    their segments; one of the testing subset has none. A segment that ends before it begins is left out, and a note
    counts those. Videos lie anywhere below ``videos``, named v_ID or ID. A video with no file, or one to train or
    validate with that has no annotation, has a ``problem``.

    Raises DataError for a fault in the file, naming it and the id, and if ``videos`` is missing or no folder.
    """
    require_folder(videos)
    content = read_json(annotations)
    name = printable(annotations)
    if not isinstance(content, dict):
        raise DataError(f"{name} is {shown(content)}, not an object with taxonomy and database: mend it")
    classes = _leaves(content.get("taxonomy"), name)
    database = content.get("database")
    if not isinstance(database, dict) or not database:
        raise DataError(f"{name}: database is {shown(database)}, not an object of videos: mend it")
    notes: list[str] = []
    records = _records(database, classes, VideoFiles(videos), name, notes)
    return Listing("activitynet", videos, tuple(map(printable, classes)), records, notes=notes)


def _leaves(taxonomy: object, name: str) -> list[str]:
    if not isinstance(taxonomy, list):
        raise DataError(f"{name}: taxonomy is {shown(taxonomy)}, not a list of nodes: mend it")
    nodes, parents = set(), set()
    for at, node in enumerate(taxonomy, 1):
        where = f"{name} taxonomy node {at}"
        if not isinstance(node, dict):
            raise DataError(f"{where}: is {shown(node)}, not an object: mend it")
        nodes.add(to_text(node.get("nodeName"), where, "nodeName"))
        if node.get("parentName") is not None:
            parents.add(to_text(node["parentName"], where, "parentName"))
    if not nodes - parents:
        raise DataError(f"{name}: taxonomy has no leaf, hence no class: mend it")
    return sorted(nodes - parents)


def _records(
    database: Mapping[str, Any], classes: list[str], files: VideoFiles, name: str, notes: list[str]
) -> Iterator[VideoRecord]:
    numbers = {label: i for i, label in enumerate(classes)}
    left_out = 0
    for video_id, about in database.items():
        where = f"{name} id {shown(video_id)}"
        to_text(video_id, where, "the id")
        if not isinstance(about, dict):
            raise DataError(f"{where}: is {shown(about)}, not an object with a subset: mend it")
        split = SPLITS.get(to_text(about.get("subset"), where, "subset").lower(), "")
        if not split:
            raise DataError(f"{where}: subset is {shown(about['subset'])}, no name of a split: mend it")
        given = _segments(about.get("annotations"), numbers, where) if split != "test" else []
        labels = tuple(sorted({label for label, _, _ in given}))
        segments = tuple(segment for segment in given if segment[1] < segment[2])
        left_out += len(given) - len(segments)
        source = files.find(f"v_{video_id}", video_id, split=split)
        problem = "" if labels or split == "test" else "unlabelled: a video without an annotation"
        if source is None:
            suffixes = "{" + ",".join(SUFFIXES) + "}"
            problem = f"missing: v_{shortened(video_id)}{suffixes} or {shortened(video_id)}{suffixes}"
        key = safe_key(video_id)
        yield VideoRecord(key, source or files.root / key, labels, split, segments, problem=problem)
    if left_out:
        notes.append(f"{name}: {left_out} segment(s) that do not end after they begin left out")


def _segments(annotations: object, numbers: Mapping[str, int], where: str) -> list[tuple[int, float, float]]:
    if not isinstance(annotations, list):
        raise DataError(f"{where}: annotations is {shown(annotations)}, not a list: mend it")
    found = []
    for annotation in annotations:
        if not isinstance(annotation, dict):
            raise DataError(f"{where}: an annotation is {shown(annotation)}, not an object: mend it")
        label = to_text(annotation.get("label"), where, "label")
        if label not in numbers:
            raise DataError(f"{where}: label {shown(label)} is no leaf of the taxonomy: mend it")
        segment = annotation.get("segment")
        if not isinstance(segment, list) or len(segment) != 2:
            raise DataError(f"{where}: segment is {shown(segment)}, not a start and an end: mend it")
        found.append((numbers[label], _seconds(segment[0], where), _seconds(segment[1], where)))
    return found


def _seconds(value: object, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise DataError(f"{where}: a time of a segment is {shown(value)}, not a number: mend it")
    try:
        seconds = float(value)
    except OverflowError:
        seconds = math.inf
    if not math.isfinite(seconds):
        raise DataError(f"{where}: a time of a segment is not finite: mend it")
    return seconds
