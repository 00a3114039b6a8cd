"""The loader on packets of JPEG, VP9 in 3 and 2 layers and VP9 of GOP 8 beside decoders of whole files, in one run.

python -m benchmarks.data [--videos DIR [--seconds-per-clip 10]] [--clips 48] [--seconds 5] [--repeats 3] [--work DIR]

Over clips made for it, or over the videos of DIR (a folder per class): as they are, or each made into a clip of
so many seconds at 340x256 and 30 frames/s, as the paper's Kinetics has them (the video again and again, by x264).
"""

from __future__ import annotations

import argparse
import os
import subprocess
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from benchmarks.commands import progress_line, show
from benchmarks.comparison import Result, StoppedEarly
from benchmarks.contenders import compare_with_rivals, describe, route_name
from benchmarks.preprocessing import make_clips, v4d
from benchmarks.turns import Work
from pipelines import Sampling
from preprocess.console import console
from preprocess.datasets.folder import list_folder
from preprocess.ffmpeg import executable
from preprocess.index import Dataset, read_dataset
from preprocess.selection import select

# The datasets that are made, by name: options of v4d preprocess.
DATASETS = {
    "mjpeg": ("--codec", "mjpeg"),
    "vp9": ("--codec", "vp9"),
    "vp9-2-layers": ("--codec", "vp9", "--layers", "2"),
    "vp9-gop-8": ("--codec", "vp9", "--gop", "8", "--layers", "1"),
}
# How many times as fast as which route the packets of which codec are to be.
BARS = (
    ("mjpeg", "decord, originals", 6.5),
    ("mjpeg", "torchcodec, H.264 GOP 8", 3.2),
    ("vp9", "decord, originals", 2.2),
    ("vp9", "torchcodec, H.264 GOP 8", 1.1),
)


def make_kinetics_like(videos: Path, root: Path, clips: int, seconds: float, workers: int) -> None:
    """At most ``clips`` of the videos as clips of ``seconds``, by ffmpeg's own defaults for H.264."""

    def make(source: Path) -> None:
        clip = root / source.parent.name / f"{source.stem}.mp4"
        if clip.exists():
            return
        clip.parent.mkdir(parents=True, exist_ok=True)
        half = clip.with_suffix(".half.mp4")
        arguments = ["-stream_loop", "-1", "-i", str(source), "-t", f"{seconds:g}", "-an", "-c:v", "libx264"]
        arguments += ["-vf", "scale=340:256,fps=30,format=yuv420p", "-threads", "1", "-y", str(half)]
        subprocess.run([executable(), "-nostdin", "-loglevel", "error", *arguments], check=True)
        os.replace(half, clip)

    chosen = select(list_folder(videos, 0), limit=clips)
    with ThreadPoolExecutor(workers) as threads:
        list(threads.map(make, [record.source for record in chosen.records]))


def bars(datasets: Sequence[Dataset], results: Sequence[Result]) -> list[str]:
    """What is asked of the loader, and what came out."""
    routes = {result.route: result for result in results}
    lines = []
    for codec, rival, factor in BARS:
        for ours in (route_name(dataset) for dataset in datasets if dataset.codec == codec):
            found = routes[rival].ratios.get(ours)
            said = "not measured" if found is None else f"{found:.2f} times as fast, {factor} asked"
            lines.append(f"{ours} beside {rival}: {said}")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", type=Path, help="a folder with a folder per class")
    parser.add_argument("--seconds-per-clip", type=float, help="make the videos into clips of that length")
    parser.add_argument("--clips", type=int, default=48)
    parser.add_argument("--seconds", type=float, default=5.0, help="of a turn")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--work", type=Path, help="folder to keep clips, datasets and encodings in")
    args = parser.parse_args()
    cores = os.cpu_count() or 1
    with tempfile.TemporaryDirectory() as folder:
        root = args.work or Path(folder)
        videos = args.videos or root / "clips"
        if args.seconds_per_clip and args.videos:
            videos = root / f"clips-of-{args.seconds_per_clip:g}-s"
            make_kinetics_like(args.videos, videos, args.clips, args.seconds_per_clip, cores)
        elif not args.videos and not videos.exists():
            make_clips(videos, args.clips)
        for name, options in DATASETS.items():
            taken = ("--limit", args.clips, "--val-fraction", 0, "--workers", cores)
            v4d("folder", "--videos", videos, "--out", root / name, *options, *taken)
        datasets = [read_dataset(root / name) for name in DATASETS]
        work = Work(datasets[0].root, "train", Sampling(4, 4, 8, 224), args.batch, "cpu", cores, args.seconds)
        console.print(describe(datasets[0], work, args.repeats).line())
        with progress_line(False) as shown:
            try:
                results: Sequence[Result] = compare_with_rivals(
                    datasets, videos, work, args.repeats, args.clips, root, shown
                )
            except StoppedEarly as stopped:
                results = stopped.results
        show(results)
        for line in bars(datasets, results):
            console.print(line)


if __name__ == "__main__":
    main()
