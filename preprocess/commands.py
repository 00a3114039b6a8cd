"""The commands ``v4d preprocess DATASET``: parse, call, print."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial, wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from preprocess.console import console, notes
from preprocess.index import CODEC_SUFFIX

if TYPE_CHECKING:
    from preprocess.ffmpeg import EncodeOptions
    from preprocess.records import Listing
    from preprocess.run import Executor, Summary

_PATH = click.Path(path_type=Path)


@dataclass(frozen=True)
class RunOptions:
    """What the commands of all datasets have in common."""

    out: Path | None
    resize: str
    fps: float | None
    codec: str
    gop: int | None
    layers: int | None
    quality: int | None
    shard_size: int | None
    split: tuple[str, ...]
    limit: int | None
    max_missing: float
    timeout: float
    workers: int
    executor: str
    ray_address: str | None
    dry_run: bool
    as_json: bool

    def encoding(self) -> EncodeOptions:
        """Raises UsageError for values that do not go together."""
        from preprocess.ffmpeg import EncodeOptions

        return EncodeOptions(
            resize=self.resize,
            fps=self.fps,
            codec=self.codec,
            gop=self.gop,
            quality=self.quality,
            layers=self.layers,
            timeout=self.timeout,
        )

    def write_shards(self) -> Executor:
        """The executor that ``--executor`` names."""
        if self.executor == "ray":
            from preprocess.on_ray import write_shards_on_ray

            return partial(write_shards_on_ray, address=self.ray_address)
        from preprocess.local import write_shards_locally

        return partial(write_shards_locally, workers=self.workers)


def _share(_context: click.Context, parameter: click.Parameter, value: float) -> float:
    # click's own range lets NaN through.
    if not 0 <= value <= 1:
        raise click.BadParameter(f"{value} is no share from 0 to 1")
    if value == 1 and parameter.name == "val_fraction":
        raise click.BadParameter("1 leaves nothing to train on: use a share below 1")
    return value


_RUN_OPTIONS = (
    click.option("--out", type=_PATH, help="Folder for the dataset  [default: shards/NAME]"),
    click.option("--resize", default="320x256", help="WxH; short:N for the shorter side; or none."),
    click.option("--fps", type=float, help="Frames per second to take  [default: every frame of the source]"),
    click.option(
        "--codec",
        type=click.Choice(list(CODEC_SUFFIX)),
        default="mjpeg",
        help="Codec of the packets: mjpeg is the fastest, vp9 and h264 (GPU only) take a fifth of the bytes.",
    ),
    click.option(
        "--gop",
        type=click.IntRange(1),
        help="Frames from keyframe to keyframe  [default: mjpeg 1, h264 and vp9 8, vp9 in layers 32]",
    ),
    click.option(
        "--layers",
        type=click.IntRange(1),
        help="Temporal layers of vp9: 3 take less room, 2 decode faster, 1 is plain  [default: 3; 1 if the GOP is no "
        "multiple of 4]",
    ),
    click.option(
        "--quality", type=int, help="Lowest is best  [default: mjpeg 4 of 2 to 31, vp9 37 of 63, h264 23 of 51]"
    ),
    click.option(
        "--shard-size", type=click.IntRange(1), help="Videos per shard  [default: by the number of videos, 8 to 256]"
    ),
    click.option("--split", multiple=True, help="Only this split; may be given again  [default: all there are]"),
    click.option(
        "--limit",
        type=click.IntRange(1),
        help="Only so many videos, spread over the classes, for a trial  [default: all]",
    ),
    click.option(
        "--max-missing",
        type=float,
        callback=_share,
        default=1.0,
        help="Do not begin if more than this share of the listed videos is missing.",
    ),
    click.option(
        "--timeout",
        type=click.FloatRange(0, min_open=True),
        default=900.0,
        help="Seconds for one video, after which it is rejected.",
    ),
    click.option(
        "--workers",
        type=click.IntRange(1),
        default=os.cpu_count() or 1,
        show_default="one per core",
        help="Processes, each with one ffmpeg of one thread.",
    ),
    click.option("--executor", type=click.Choice(["local", "ray"]), default="local", help="Where shards are written."),
    click.option("--ray-address", help="The Ray cluster, as HOST:PORT  [default: RAY_ADDRESS, or one of this machine]"),
    click.option("--dry-run", is_flag=True, help="Only say what there is, and what time and room it would take."),
    click.option("--json", "as_json", is_flag=True, help="Progress and summary as lines of JSON."),
)


def _run_command(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the common options, and pass them as one ``run``."""

    @wraps(function)
    def command(**arguments: Any) -> Any:
        common = {name: arguments.pop(name) for name in RunOptions.__dataclass_fields__}
        if common["ray_address"] and common["executor"] != "ray":
            raise click.UsageError("--ray-address is for --executor ray")
        run = RunOptions(**common)
        # A mistake in the options is told before anything is looked for.
        run.encoding()
        return function(run=run, **arguments)

    for option in reversed(_RUN_OPTIONS):
        command = option(command)
    return command


_ANNOTATIONS = click.option(
    "--annotations",
    type=_PATH,
    multiple=True,
    help="An annotation file; may be given again  [default: found in data/NAME]",
)
_VIDEOS = click.option("--videos", type=_PATH, help="Folder of the videos  [default: data/NAME/videos]")
_TRIM = click.option("--trim", is_flag=True, help="Cut the annotated seconds out of downloads of whole videos.")
_VAL_FRACTION = click.option(
    "--val-fraction",
    type=float,
    callback=_share,
    default=0.2,
    help="Share of each class to hold out, where there is no split.",
)


@click.group()
def preprocess() -> None:
    """Turn a dataset of videos into shards, by the layout it has.

    \b
    Example: v4d preprocess folder
    """


@preprocess.command()
@_VIDEOS
@_VAL_FRACTION
@_run_command
def folder(videos: Path | None, val_fraction: float, run: RunOptions) -> None:
    """Preprocess videos in a folder per class: CLASS/VIDEO or {train,val}/CLASS/VIDEO.

    \b
    Example: v4d preprocess folder --videos data/fights/videos --out shards/fights
    """
    from preprocess.datasets.folder import list_folder
    from preprocess.work_folder import choose_videos, shards_of

    videos = videos or choose_videos()
    _preprocess(lambda: list_folder(videos, val_fraction), (), videos, run.out or shards_of(videos), run)


@preprocess.command()
@_ANNOTATIONS
@_VIDEOS
@_TRIM
@_run_command
def kinetics(annotations: tuple[Path, ...], videos: Path | None, trim: bool, run: RunOptions) -> None:
    """Preprocess Kinetics-400, -600 or -700 by its csv files.

    Videos are named ID_START_END or ID, with .mp4, .mkv or .webm, in folders by class or split, or in none.

    \b
    Example: v4d preprocess kinetics --annotations kinetics-400_val.csv --videos k400/val
    """
    from preprocess.datasets.kinetics import list_kinetics

    _preprocess_found("kinetics", partial(list_kinetics, trim=trim), annotations, videos, run)


@preprocess.command("mini-kinetics")
@_ANNOTATIONS
@_VIDEOS
@_TRIM
@_run_command
def mini_kinetics(annotations: tuple[Path, ...], videos: Path | None, trim: bool, run: RunOptions) -> None:
    """Preprocess the 200 classes of Mini-Kinetics.

    Its annotations are lists of lines "PATH LABEL" with the converter to Kinetics' classes (a json file) and, for
    names and times, Kinetics' csv files; or these with a file of the 200 names.

    \b
    Example: v4d preprocess mini-kinetics --annotations train_list.txt --annotations val_list.txt --videos k400
    """
    from preprocess.datasets.mini_kinetics import list_mini_kinetics

    _preprocess_found("mini-kinetics", partial(list_mini_kinetics, trim=trim), annotations, videos, run)


@preprocess.command()
@_ANNOTATIONS
@_VIDEOS
@_run_command
def something(annotations: tuple[Path, ...], videos: Path | None, run: RunOptions) -> None:
    """Preprocess Something-Something, v1 (folders of pictures, 12 per second) or v2 (videos).

    \b
    Example: v4d preprocess something
    """
    from preprocess.datasets.something import list_something

    _preprocess_found("something", list_something, annotations, videos, run)


@preprocess.command()
@_ANNOTATIONS
@_VIDEOS
@_run_command
def activitynet(annotations: tuple[Path, ...], videos: Path | None, run: RunOptions) -> None:
    """Preprocess ActivityNet v1.3, untrimmed, with its segments.

    \b
    Example: v4d preprocess activitynet --annotations activity_net.v1-3.min.json --videos activitynet/videos
    """
    from preprocess.datasets.activitynet import list_activitynet

    if len(annotations) > 1:
        raise click.UsageError("activitynet has one annotation file: give --annotations once")
    _preprocess_found("activitynet", lambda files, root: list_activitynet(files[0], root), annotations, videos, run)


@preprocess.command("list")
@click.option("--annotations", type=_PATH, multiple=True, required=True, help="A list; may be given again.")
@click.option("--videos", type=_PATH, required=True, help="Folder that the paths in the lists begin at.")
@click.option("--classes", type=_PATH, help="File with the names of the classes, one on each line.")
@_VAL_FRACTION
@_run_command
def lists(
    annotations: tuple[Path, ...], videos: Path, classes: Path | None, val_fraction: float, run: RunOptions
) -> None:
    """Preprocess videos named by lists: lines "PATH LABEL", or csv files with columns path, label, split.

    \b
    Example: v4d preprocess list --annotations train.txt --annotations val.txt --videos videos --out shards/mine
    """
    from preprocess.datasets.video_list import list_videos_of_lists
    from preprocess.work_folder import shards_of

    def listing() -> Listing:
        return list_videos_of_lists(annotations, videos, classes=classes, val_fraction=val_fraction)

    _preprocess(listing, annotations, videos, run.out or shards_of(videos), run)


def _preprocess_found(
    kind: str,
    list_dataset: Callable[[Sequence[Path], Path], Listing],
    annotations: tuple[Path, ...],
    videos: Path | None,
    run: RunOptions,
) -> None:
    """What is not named is looked for in the work folder."""
    from preprocess.datasets.discovery import find_dataset
    from preprocess.work_folder import shards_of

    if annotations and videos:
        out = run.out or shards_of(videos)
    else:
        found = find_dataset(kind)
        annotations, videos = annotations or found.annotations, videos or found.videos
        out = run.out or shards_of(Path(found.name))
    _preprocess(lambda: list_dataset(annotations, videos), annotations, videos, out, run)


def _preprocess(
    list_dataset: Callable[[], Listing], annotations: Sequence[Path], videos: Path, out: Path, run: RunOptions
) -> None:
    from preprocess.progress import JsonProgress
    from preprocess.records import printable
    from preprocess.selection import select

    options = run.encoding()
    if not run.as_json:
        read = f"annotations {', '.join(map(printable, annotations))}, " if annotations else ""
        notes.print(f"{read}videos {printable(videos)}, dataset {printable(out)}")
    # A dry run says what is missing, however much that is.
    max_missing = 1.0 if run.dry_run else run.max_missing
    listing = select(list_dataset(), splits=run.split, limit=run.limit, max_missing=max_missing)
    if run.dry_run:
        from preprocess.estimate import estimate

        found = estimate(listing, out, options, run.workers)
        if run.as_json:
            JsonProgress(click.echo).event("estimate", **found.as_json())
        else:
            for line in found.lines(run.workers):
                console.print(line)
        return
    summary = preprocess_with_progress(listing, out, options, run.write_shards(), run.shard_size, run.as_json)
    if run.as_json:
        JsonProgress(click.echo).event("summary", **asdict(summary) | {"data": str(summary.data)})
    else:
        for line in summary.lines():
            console.print(line)


def preprocess_with_progress(
    listing: Listing,
    out: Path,
    options: EncodeOptions,
    write_shards: Executor,
    shard_size: int | None = None,
    as_json: bool = False,
) -> Summary:
    """Preprocess a listing and show how far it is, for people or for machines."""
    from preprocess.progress import JsonProgress, PreprocessProgress
    from preprocess.run import preprocess as work

    if as_json:
        events = JsonProgress(click.echo)
        return work(
            listing,
            out,
            options,
            write_shards,
            shard_size=shard_size,
            on_start=events.start,
            on_video=events.video,
        )
    with PreprocessProgress(notes, "videos") as shown:
        return work(
            listing, out, options, write_shards, shard_size=shard_size, on_start=shown.start, on_video=shown.video
        )


def make_ordered_actions(videos: Path, shards: Path, per_class: dict[str, int], seed: int, workers: int) -> None:
    """Render the demo's videos and preprocess them, with ``per_class`` of each split, and say so.

    What is there is kept. Raises DataError as ``render`` and ``preprocess`` do.
    """
    from preprocess.ffmpeg import EncodeOptions
    from preprocess.local import write_shards_locally
    from preprocess.ordered_actions import SIZE, class_names, list_videos, render
    from preprocess.progress import PreprocessProgress

    with PreprocessProgress(notes, "rendered") as progress:
        progress.start(len(class_names()) * sum(per_class.values()), 0)
        render(videos, per_class, seed, workers, lambda: progress.video(True))
    options = EncodeOptions(f"{SIZE}x{SIZE}")
    executor = partial(write_shards_locally, workers=workers)
    for line in preprocess_with_progress(list_videos(videos), shards, options, executor).lines():
        console.print(line)
