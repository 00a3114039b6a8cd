"""Kinetics: csv files of clips, one for each split, and the clips or the videos they are cut from."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from preprocess.datasets.annotations import FirstPlaces, place, read_table, shortened, split_in_name, to_span, to_split
from preprocess.datasets.video_files import SUFFIXES, VideoFiles, require_folder, stamps
from preprocess.errors import DataError
from preprocess.records import Listing, VideoRecord, printable, safe_key

_COLUMNS = {name: (name,) for name in ("youtube_id", "time_start", "time_end", "label", "split")}
_TIMES = ("time_start", "time_end")


@dataclass(frozen=True, slots=True)
class Clip:
    """A row of an annotation file. ``label`` is empty for none; ``times`` are None where nothing says them."""

    path: Path
    row: int
    youtube_id: str
    times: tuple[float, float] | None
    label: str
    split: str


def list_kinetics(annotations: Sequence[Path], videos: Path, *, trim: bool = False) -> Listing:
    """List the clips of Kinetics csv files in the order of their rows. No video is opened.

    The columns are label (not needed in a test split), youtube_id, time_start, time_end and split, which may be left
    out if the file's name has it as a word; other columns are ignored. Classes are the labels of all files in
    alphabetical order. Videos lie anywhere below ``videos``, named ID_START_END or ID; see ``VideoFiles`` for which
    one is taken of several. With ``trim`` the clip is cut out of a file named ID, which else is taken whole. A clip
    with no file, or listed twice in a split, has a ``problem``.

    Raises DataError for a fault in a csv file, naming file and row, and if ``videos`` is missing or no folder.
    """
    require_folder(videos)
    classes = sorted({clip.label for path in annotations for clip in read_clips(path) if clip.label})
    if not classes:
        listed = ", ".join(map(printable, annotations)) or "no file"
        raise DataError(f"{listed}: no row has a label: name the csv file of a labelled split too")
    clips = (clip for path in annotations for clip in read_clips(path))
    records = clip_records(clips, {name: i for i, name in enumerate(classes)}, VideoFiles(videos), trim)
    return Listing("kinetics", videos, tuple(map(printable, classes)), records, {"trim": trim})


def read_clips(path: Path) -> Iterator[Clip]:
    """The rows of a Kinetics csv file, read meanwhile. Raises DataError, naming file and row, for a fault."""
    split_of_file = split_in_name(path)
    for row, cells in read_table(path, _COLUMNS, ("youtube_id", *_TIMES)):
        where = place(path, row)
        youtube_id, label = cells["youtube_id"], cells.get("label", "")
        if not youtube_id:
            raise DataError(f"{where}: youtube_id is empty: mend it")
        times = to_span(cells["time_start"], cells["time_end"], where, _TIMES)
        split = to_split(cells["split"], where) if "split" in cells else split_of_file
        if not split:
            raise DataError(f"{where}: there is no column split, nor train, val or test in the file's name: add one")
        if not label and split != "test":
            raise DataError(f"{where}: a {split} row has no label: mend it")
        yield Clip(path, row, youtube_id, times, label, split)


def clip_records(
    clips: Iterable[Clip],
    numbers: Mapping[str, int],
    files: VideoFiles,
    trim: bool,
    folder_names: Mapping[str, str] | None = None,
) -> Iterator[VideoRecord]:
    """A record for each clip, where ``numbers`` has the class of each label; made as they are asked for.

    ``folder_names`` has what the folder of a label is called, if that is not the label.
    """
    listed = FirstPlaces()
    for clip in clips:
        if clip.label and clip.label not in numbers:
            raise DataError(f"{place(clip.path, clip.row)}: the label was not there before: has the file changed?")
        labels = (numbers[clip.label],) if clip.label else ()
        key = safe_key(_name(clip))
        class_name = (folder_names or {}).get(clip.label, clip.label)
        source = files.find_id(clip.youtube_id, clip.times, split=clip.split, class_name=class_name)
        problem = listed.problem(clip.split, key, clip.path, clip.row)
        if source is None:
            problem = problem or f"missing: {_looked_for(clip)}"
            yield VideoRecord(key, files.root / key, labels, clip.split, problem=problem)
        else:
            is_whole = source.stem in (clip.youtube_id, f"v_{clip.youtube_id}")
            cut = clip.times if trim and is_whole else None
            yield VideoRecord(key, source, labels, clip.split, trim=cut, problem=problem)


def _name(clip: Clip) -> str:
    if clip.times is None:
        return clip.youtube_id
    if all(time.is_integer() for time in clip.times):
        return f"{clip.youtube_id}_{stamps(clip.times)}"
    # Two clips may begin and end in the same seconds.
    return f"{clip.youtube_id}_{clip.times[0]!r}_{clip.times[1]!r}"


def _looked_for(clip: Clip) -> str:
    cut = stamps(clip.times) if clip.times else "START_END"
    suffixes = "{" + ",".join(SUFFIXES) + "}"
    name = shortened(clip.youtube_id)
    return f"{name}_{cut}{suffixes} or {name}{suffixes}"
