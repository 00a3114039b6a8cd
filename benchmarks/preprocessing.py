"""What `v4d preprocess` costs over its ffmpegs, and what a large list costs before they start.

python benchmarks/preprocessing.py [--videos DIR] [--workers 2] [--rounds 3] [--rows 78421]

1. Wall time of the whole command `v4d preprocess folder` beside a plain loop: the very same ffmpeg commands, as many at
   a time, writing to files, and nothing else. By turns, in one run; without --videos over clips made for it.
2. A Mini-Kinetics list of so many rows with all its (empty) videos: the time until the plan is ready, and the peak
   memory of the process.
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from pathlib import Path

from preprocess.datasets.folder import list_folder
from preprocess.ffmpeg import EncodeOptions, command, executable, version
from preprocess.probe import probe

CLIPS, CLASSES = 120, 2
ENDED_AT_THE_PLAN = "the plan is ready"


def make_clips(root: Path, clips: int = CLIPS) -> None:
    """Clips of 10 s, 340x256 at 30/s, as the paper's Kinetics has them; with the bytes of real ones, about 400 KB.

    Spots that move before a background of changing colour, with a camera's noise.
    """
    for number in range(clips):
        clip = root / f"class-{number % CLASSES}" / f"{number:03d}.mp4"
        clip.parent.mkdir(parents=True, exist_ok=True)
        source = (
            f"gradients=size=340x256:rate=30:speed=0.02:seed={number},format=yuv420p,"
            f"noise=alls=100:all_seed={number},gblur=sigma=2.5,scroll=h=0.005:v=0.002,noise=alls=7:allf=t"
        )
        arguments = ["-f", "lavfi", "-i", source, "-t", "10", "-c:v", "libx264", "-preset", "veryfast", "-pix_fmt"]
        subprocess.run([executable(), "-loglevel", "error", *arguments, "yuv420p", str(clip)], check=True)


def plain_loop(videos: list[Path], formats: list[str], out: Path, workers: int) -> float:
    """Seconds that the ffmpeg commands take, ``workers`` at a time."""
    options = EncodeOptions()

    def one(number: int) -> None:
        line = command(formats[number], options, (320, 256), Fraction(30))
        with open(videos[number], "rb") as source, open(out / f"{number}.mjpeg", "wb") as packets:
            subprocess.run(line, stdin=source, stdout=packets, stderr=subprocess.DEVNULL, check=True)

    began = time.perf_counter()
    with ThreadPoolExecutor(workers) as executor:
        list(executor.map(one, range(len(videos))))
    return time.perf_counter() - began


def v4d(*arguments: object) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "cli", "preprocess", *map(str, arguments)]
    return subprocess.run(line, check=True, capture_output=True, text=True)


def overhead(videos_root: Path, scratch: Path, workers: int, rounds: int) -> None:
    videos = [record.source for record in list_folder(videos_root, 0.2).records]
    formats = [probe(path).format for path in videos]
    print(f"{len(videos)} videos, {workers} processes, ffmpeg {version()}, {rounds} rounds by turns")
    print(f"{'round':>6}{'plain loop':>14}{'v4d preprocess':>17}{'ratio':>8}")
    ratios = []
    for number in range(rounds):
        plain_out, data = scratch / "plain", scratch / "data"
        plain_out.mkdir()
        plain = plain_loop(videos, formats, plain_out, workers)
        began = time.perf_counter()
        v4d("folder", "--videos", videos_root, "--out", data, "--workers", workers)
        ours = time.perf_counter() - began
        content = json.loads((data / "dataset.json").read_bytes())
        assert sum(split["videos"] for split in content["splits"].values()) == len(videos), "not every video was taken"
        shutil.rmtree(plain_out)
        shutil.rmtree(data)
        ratios.append(ours / plain)
        print(f"{number + 1:>6}{plain:>12.1f} s{ours:>15.1f} s{ratios[-1]:>8.3f}")
    print(f"median ratio {statistics.median(ratios):.3f}")


def large_list(scratch: Path, rows: int) -> None:
    """Run by ``main`` in a process of its own, whose peak memory is this."""
    from preprocess.datasets.mini_kinetics import list_mini_kinetics
    from preprocess.run import preprocess
    from preprocess.selection import select
    from preprocess.shards import ShardPlan

    class PlanReadyError(Exception):
        pass

    def planned(plans: list[ShardPlan], _: object) -> None:
        raise PlanReadyError(sum(len(plan.records) for plan in plans))

    began = time.perf_counter()
    listing = select(list_mini_kinetics([scratch / "mini_kinetics_train_list.txt"], scratch / "videos"))
    try:
        preprocess(listing, scratch / "shards", EncodeOptions(), planned)
    except PlanReadyError as ready:
        seconds, peak = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(f"list of {rows:,} rows, {ready.args[0]:,} of them found: planned in {seconds:.1f} s, peak {peak:.0f} MB")


def make_list(scratch: Path, rows: int) -> None:
    videos = scratch / "videos" / "train"
    videos.mkdir(parents=True)
    with open(scratch / "mini_kinetics_train_list.txt", "w") as lines:
        for number in range(rows):
            name = f"{number * 7919:011x}.mp4"
            lines.write(f"/somewhere/train/{name} {number % 200}\n")
            (videos / name).touch()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", type=Path, help="a folder with a folder per class")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rows", type=int, default=78_421)
    parser.add_argument("--planning-in", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.planning_in:
        large_list(args.planning_in, args.rows)
        return
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        if not args.videos:
            make_clips(scratch / "clips")
        overhead(args.videos or scratch / "clips", scratch, args.workers, args.rounds)
        make_list(scratch, args.rows)
        line = [sys.executable, __file__, "--planning-in", folder, "--rows", str(args.rows)]
        subprocess.run(line, check=True)


if __name__ == "__main__":
    main()
