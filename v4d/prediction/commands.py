"""The commands ``v4d predict`` and ``v4d cam``: parse, call, print."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from preprocess.console import console, notes, notes_beside
from preprocess.errors import UsageError

if TYPE_CHECKING:
    import torch
    from rich.console import Console

    from preprocess.errors import DataError
    from preprocess.index import Dataset
    from v4d.prediction.predict import Prediction
    from v4d.trained import Trained

_PATH = click.Path(path_type=Path)
_FILE = click.Path(dir_okay=False, path_type=Path)
_CROPS: dict[str, Literal[1, 3, 10]] = {"1": 1, "3": 3, "10": 10}
_RUN = click.option(
    "--run",
    type=_PATH,
    help="Network: the folder of a run, a checkpoint or a weights file  [default: the newest run under runs/]",
)
_DATA = click.option(
    "--data",
    type=_PATH,
    help="Preprocessed dataset whose frames the video's are made like  [default: the one the network was trained on]",
)
_GPUS = click.option(
    "--gpus", type=click.IntRange(0, 1), help="1 for the GPU, 0 for the CPU  [default: the GPU if there is one]"
)


@click.command()
@click.argument("videos", type=_PATH, nargs=-1, required=True, metavar="VIDEO...")
@_RUN
@_DATA
@click.option(
    "--u-infer", type=click.IntRange(1, 64), default=10, help="Action units taken of each video (Algorithm 1)."
)
@click.option(
    "--crops",
    type=click.Choice(["1", "3", "10"]),
    default="3",
    help="1: the centre. 3: along the longer side. 10: corners and centre, mirrored too, as v4d eval takes them.",
)
@click.option("--top", type=click.IntRange(1), default=5, help="Classes to show of each video.")
@_GPUS
@click.option("--json", "as_json", is_flag=True, help="Print a JSON document for each video, on a line of its own.")
def predict(
    videos: tuple[Path, ...],
    run: Path | None,
    data: Path | None,
    u_infer: int,
    crops: str,
    top: int,
    gpus: int | None,
    as_json: bool,
) -> None:
    """Show the top classes of video files, straight from the files: the scores that v4d eval gives them.

    VIDEO is a file, or a folder of videos at any depth. A file that cannot be read gets one line, the others go on, and
    the exit code is 1 in the end.

    \b
    Example: v4d predict clips/ --run runs/fights-v4d_small
    """
    from v4d.evaluation.protocols import Protocol
    from v4d.prediction.predict import predictions, video_files

    files = video_files(videos)
    beside = notes_beside(as_json)
    device = _device(gpus)
    trained, dataset = _network(run, data, device, beside)
    names = trained.class_names(dataset)
    about = {"v4d": _version(), **_made_by(trained), "u_infer": u_infer, "crops": int(crops)}
    about["scores"] = trained.recipe.train.loss
    protocol, bad = Protocol(units_infer=u_infer, crops=_CROPS[crops]), 0

    def on_bad(path: Path, why: DataError) -> None:
        nonlocal bad
        bad += 1
        click.echo(f"v4d: {why}", err=True)
        if as_json:
            click.echo(json.dumps({"video": str(path), "error": str(why), **about}))

    found = predictions(trained, files, dataset, protocol=protocol, device=device, on_bad=on_bad)
    for prediction in found:
        if as_json:
            click.echo(json.dumps({**_as_document(prediction, names, top), **about}))
        else:
            console.print(_one_line(str(prediction.video)))
            for number, score in prediction.top(top):
                console.print(f"  {score:6.1%}  {_one_line(names[number])}")
    if bad:
        click.echo(f"v4d: {bad} of {len(files)} files could not be read", err=True)
        click.get_current_context().exit(1)


@click.command()
@click.argument("video", type=_PATH)
@_RUN
@click.option("--against", type=_PATH, help="Another network, whose maps of the same frames and class stand above.")
@click.option("--class", "class_name", metavar="NAME", help="Class to map  [default: the top class of --run]")
@click.option(
    "--units", type=click.IntRange(1, 64), help="Action units of the video  [default: as many as in training]"
)
@_DATA
@click.option("--out", type=_FILE, help="PNG to write  [default: NAME-cam.png of the video's name, in this folder]")
@click.option("--video", "clip", type=_FILE, metavar="MP4", help="Write the maps over the frames as a clip too.")
@_GPUS
def cam(
    video: Path,
    run: Path | None,
    against: Path | None,
    class_name: str | None,
    units: int | None,
    data: Path | None,
    out: Path | None,
    clip: Path | None,
    gpus: int | None,
) -> None:
    """Draw 3D class activation maps: where in a video, and in which of its units, a network sees a class.

    The picture has a row of frames, the maps of --against if given, and those of --run.

    \b
    Example: v4d cam clip.mp4 --run runs/v4d --against runs/tsn --video clip-cam.mp4
    """
    from v4d.prediction.cam import video_maps
    from v4d.trained import load_trained

    out = out or Path(f"{video.stem}-cam.png")
    _see_that_files_differ(video, out, clip)
    device = _device(gpus)
    trained, dataset = _network(run, data, device, notes)
    other = load_trained(against) if against else None
    if other and other.recipe.data.test_sampling(1) != trained.recipe.data.test_sampling(1):
        notes.print(f"note: {other.name} was trained on units of another kind: it sees those of {trained.name}")
    units = units or trained.recipe.data.units
    maps = video_maps(trained, other, video, dataset, units=units, class_name=class_name, device=device)
    maps.write_sheet(out)
    for row in maps.rows:
        console.print(_one_line(f"{row.network}: {row.caption}"))
    console.print(_one_line(f"maps: {out}"))
    if clip:
        maps.write_clip(clip)
        console.print(_one_line(f"clip: {clip}"))


def _see_that_files_differ(video: Path, out: Path, clip: Path | None) -> None:
    """Raise UsageError if one would be written over another, or is named as what it is not."""
    named = {"VIDEO": video, "--out": out, **({"--video": clip} if clip else {})}
    seen: dict[str, str] = {}
    for name, path in named.items():
        other = seen.setdefault(os.path.realpath(path), name)
        if other != name:
            raise UsageError(f"{name} would write over {other}, {path}: name another file")
    for name, suffix in (("--out", ".png"), ("--video", ".mp4")):
        if name in named and named[name].suffix.lower() != suffix:
            raise UsageError(f"{name} {named[name]}: it is written as {suffix[1:].upper()}, name it NAME{suffix}")


def _network(
    run: Path | None, data: Path | None, device: torch.device, beside: Console
) -> tuple[Trained, Dataset | None]:
    from pipelines.file_loader import come_as_jpegs
    from v4d.runs import choose_run
    from v4d.trained import load_trained

    trained = load_trained(run or choose_run())
    dataset = trained.dataset_of_frames(data, beside)
    if dataset and come_as_jpegs(dataset, device):
        beside.print(f"note: {dataset.root} is H.264, which only a GPU decodes here: frames are JPEGs of best quality")
    return trained, dataset


def _device(gpus: int | None) -> torch.device:
    import torch

    from v4d.launch import choose_gpus

    return torch.device("cuda" if min(1, choose_gpus(gpus)) else "cpu")


def _version() -> str:
    from preprocess.index import VERSION

    return VERSION


def _made_by(trained: Trained) -> dict[str, Any]:
    """Which network it was, without its recipe, which is in its file."""
    return {name: trained.about[name] for name in ("checkpoint", "weights", "step") if name in trained.about}


def _as_document(prediction: Prediction, names: tuple[str, ...], top: int) -> dict[str, Any]:
    classes = [{"class": names[i], "number": i, "score": score} for i, score in prediction.top(top)]
    return {"video": str(prediction.video), "classes": classes}


def _one_line(text: str) -> str:
    """A name as one line of text, whatever characters it holds."""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)
