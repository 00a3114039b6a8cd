"""The files that other routes read: the originals of a dataset, and encodings of them, frame for frame the same."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from preprocess.encode import encode
from preprocess.errors import DataError
from preprocess.ffmpeg import EncodeOptions, executable
from preprocess.index import Dataset, Index, VideoRow, as_record_batch, read_dataset, shard_name, write_index
from preprocess.sources import Unreadable


@dataclass(frozen=True)
class Encoding:
    """A way to encode a video as one file: ``name`` is for people, ``suffix`` says the container."""

    name: str
    codec: str
    gop: int
    suffix: str


H264_SHORT = Encoding("H.264 GOP 8", "h264", 8, ".mp4")
H264_LONG = Encoding("H.264 GOP 250", "h264", 250, ".mp4")
VP9_SHORT = Encoding("VP9 GOP 8", "vp9", 8, ".ivf")


def originals(index: Index, videos: Path) -> tuple[Path, ...]:
    """The file of each row. Raises DataError where one is not there."""
    found = tuple(videos / row.source for row in index)
    for path in found:
        if not path.is_file():
            what = "a folder of pictures" if path.is_dir() else "not there"
            raise DataError(f"{path} is {what}: --videos is to be the folder of video files that the dataset came from")
    return found


def has_frames_of_originals(dataset: Dataset) -> bool:
    """Whether frame ``i`` of every video is frame ``i`` of its original: none was cut or taken at another rate."""
    return dataset.options.get("fps") is None and not dataset.options.get("trim")


def encoded(
    dataset: Dataset,
    index: Index,
    videos: Path,
    encoding: Encoding,
    folder: Path,
    workers: int,
    on_video: Callable[[], None] = lambda: None,
) -> tuple[Path, ...]:
    """A file for each row below ``folder``, with the very frames of the row at its size; made where it is not there.

    Raises DataError for a source that does not give the row's frames.
    """
    sources = originals(index, videos)
    trimmed = bool(dataset.options.get("trim"))
    target = folder / f"{encoding.codec}-gop-{encoding.gop}"

    def one(number: int) -> Path:
        row = index[number]
        path = target / f"{row.key}{encoding.suffix}"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            _encode(dataset, row, sources[number], encoding, path, trimmed)
        on_video()
        return path

    with ThreadPoolExecutor(workers) as threads:
        return tuple(threads.map(one, range(len(index))))


def _encode(dataset: Dataset, row: VideoRow, source: Path, encoding: Encoding, path: Path, trimmed: bool) -> None:
    # Codecs other than JPEG have no odd sizes.
    size = f"{row.width // 2 * 2}x{row.height // 2 * 2}"
    options = EncodeOptions(size, dataset.options.get("fps"), encoding.codec, encoding.gop, layers=1)
    with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
        ivf, complete = Path(scratch) / "packets.ivf", Path(scratch) / f"complete{encoding.suffix}"
        try:
            with open(ivf, "w+b") as sink:
                _, packets = encode(source, options, sink, trim=(row.start, row.end) if trimmed else None)
        except Unreadable as why:
            raise DataError(f"{source} cannot be encoded anew: {why.reason}") from None
        if len(packets.sizes) != row.frames:
            raise DataError(f"{source} gives {len(packets.sizes)} frames, the dataset has {row.frames} of it")
        if encoding.suffix == ".ivf":
            complete = ivf
        else:
            line = [executable(), "-nostdin", "-loglevel", "error", "-f", "ivf", "-i", str(ivf), "-c", "copy"]
            subprocess.run([*line, str(complete)], check=True)
        os.replace(complete, path)


def few(dataset: Dataset, split: str, videos: int, root: Path) -> Dataset:
    """A dataset at ``root`` of at most so many videos of one split, evenly over it, with the same shards (linked)."""
    index = dataset.split(split)
    chosen = [index[number] for number in np.linspace(0, len(index) - 1, min(videos, len(index)), dtype=int).tolist()]
    (root / split).mkdir(parents=True)
    for shard in {row.shard for row in chosen}:
        (root / split / shard_name(shard)).symlink_to((dataset.root / split / shard_name(shard)).resolve())
    write_index(root / split / "index.arrow", [as_record_batch(chosen)], index.metadata)
    content = json.loads((dataset.root / "dataset.json").read_bytes())
    content["splits"] = {split: content["splits"][split] | {"videos": len(chosen)}}
    (root / "dataset.json").write_text(json.dumps(content))
    return replace(read_dataset(root), fingerprint=dataset.fingerprint)
