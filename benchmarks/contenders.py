"""Who is compared: our loader, and what else a user could put in its place."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import torch

from benchmarks.comparison import CPU, About, Contender, Result, measure, missing_packages
from benchmarks.dali_routes import DaliReader, DaliWholeFiles
from benchmarks.files import (
    H264_LONG,
    H264_SHORT,
    VP9_SHORT,
    Encoding,
    encoded,
    few,
    has_frames_of_originals,
    originals,
)
from benchmarks.routes import OurLoader, WholeFiles
from benchmarks.same_batches import packet_cost
from benchmarks.turns import Route, Work
from benchmarks.whole_files import DECODERS
from preprocess.errors import DataError
from preprocess.index import Dataset


class Progress(Protocol):
    """Hears what is being done."""

    def turn(self, route: str) -> None: ...

    def encoded(self, done: int, total: int) -> None: ...


def route_name(dataset: Dataset) -> str:
    """What our loader is called on a dataset."""
    gop, layers = dataset.options.get("gop"), dataset.options.get("layers", 1)
    if dataset.codec == "mjpeg":
        return "v4d, JPEG packets"
    name = {"vp9": "VP9", "h264": "H.264"}[dataset.codec]
    return f"v4d, {name} GOP {gop}" + (f" in {layers} layers" if layers > 1 else "")


def our_loader(dataset: Dataset, work: Work) -> Contender:
    """``TrainLoader`` on a dataset."""
    cost = packet_cost(dataset, work)
    name = route_name(dataset)
    return Contender(
        name,
        {"": OurLoader(name, dataset.root)},
        cost.bytes_stored,
        decoded_per_used=cost.decoded_per_used,
        bytes_read=cost.bytes_read,
        ours=True,
    )


def rivals(dataset: Dataset, videos: Path, folder: Path, work: Work, progress: Progress) -> list[Contender]:
    """The other routes, on the originals below ``videos`` and on encodings of them, which are made below ``folder``.

    Raises DataError where an original is missing or is not what the dataset was made of.
    """
    index = dataset.split(work.split)
    encodings = (H264_SHORT, H264_LONG, VP9_SHORT)
    done = 0

    def one_more() -> None:
        nonlocal done
        done += 1
        progress.encoded(done, len(encodings) * len(index))

    def made(encoding: Encoding) -> tuple[Path, ...]:
        return encoded(dataset, index, videos, encoding, folder, work.threads, one_more)

    files = {"originals": originals(index, videos)} | {encoding.name: made(encoding) for encoding in encodings}
    stored = {name: sum(path.stat().st_size for path in of) / len(of) for name, of in files.items()}
    found = []
    for decoder in DECODERS:
        for name in ("originals", H264_LONG.name, H264_SHORT.name):
            ways = {
                f"{work.threads} {workers}": WholeFiles(
                    f"{decoder}, {name}", decoder, files[name], workers, work.threads if workers == "processes" else 1
                )
                for workers in ("processes", "threads")
            }
            problem = missing_packages(next(iter(ways.values())))
            if name == "originals" and not has_frames_of_originals(dataset):
                problem = "the dataset was cut out of them, or made with --fps: it has other frames"
            found.append(Contender(f"{decoder}, {name}", ways, stored[name], problem=problem))
    on_gpu = work.device != "cpu"
    # On the CPU, DALI takes VP8, VP9 and MJPEG.
    for name in (VP9_SHORT.name, H264_LONG.name, H264_SHORT.name) if on_gpu else (VP9_SHORT.name,):
        # fn.readers.video takes no file that does not tell its rate, as IVF does not.
        experimental = name == VP9_SHORT.name
        reader = f"fn.{'experimental.' if experimental else ''}readers.video, {name}"
        routes: tuple[Route, ...] = (
            DaliWholeFiles(f"DALI, {name}", files[name]),
            DaliReader(reader, files[name], experimental),
        )
        found += [Contender(route.name, {f"{work.threads} threads": route}, stored[name]) for route in routes]
    return found


def compare_with_rivals(
    datasets: Sequence[Dataset],
    videos: Path,
    work: Work,
    repeats: int,
    limit: int,
    folder: Path | None,
    progress: Progress,
) -> list[Result]:
    """Measure our loader on each of some datasets, made of the same videos, and the other routes, in one run.

    At most ``limit`` videos are used. Encodings are kept in ``folder``, or in none. Raises DataError where the
    datasets are not of the same videos, or ``rivals`` does.
    """
    with tempfile.TemporaryDirectory() as scratch:
        chosen = [few(of, work.split, limit, Path(scratch) / f"{number}") for number, of in enumerate(datasets)]
        same = {tuple((row.key, row.frames) for row in of.split(work.split)) for of in chosen}
        if len(same) > 1:
            raise DataError(f"{' and '.join(str(of.root) for of in datasets)} do not hold the same videos")
        work = replace(work, data=chosen[0].root)
        kept = (folder or Path(scratch)) / f"encoded-{chosen[0].fingerprint[:16]}"
        ours = [our_loader(of, work) for of in chosen]
        return measure([*ours, *rivals(chosen[0], videos, kept, work, progress)], work, repeats, progress.turn)


def describe(dataset: Dataset, work: Work, repeats: int) -> About:
    """What is about to be measured."""
    take = work.sampling
    return About(
        data=str(dataset.root),
        codec=dataset.codec,
        split=work.split,
        videos=len(dataset.split(work.split)),
        device=CPU if work.device == "cpu" else torch.cuda.get_device_name(),
        cores=os.cpu_count() or 1,
        threads=work.threads,
        batch=work.batch,
        units=take.units,
        frames=take.frames,
        stride=take.stride,
        crop=take.crop,
        seconds=work.seconds,
        repeats=repeats,
    )
