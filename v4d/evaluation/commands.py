"""The commands ``v4d eval`` and ``v4d compare``: parse, call, print."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click
from click.core import ParameterSource

from preprocess.console import console, notes
from preprocess.errors import UsageError

if TYPE_CHECKING:
    from v4d.evaluation.evaluate import Accuracy, Request
    from v4d.evaluation.protocols import Kind, Reverse
    from v4d.inference import Activation

_PATH = click.Path(path_type=Path)
# Those of v4d.inference, which would import torch, for --help too.
_SCORES = ("softmax", "logits", "sigmoid")
_CROPS: dict[str, Literal[1, 3, 10]] = {"1": 1, "3": 3, "10": 10}
_OF_TRIMMED = ("v4d", "tsn", "dense")
# The protocols of those options that are not for all of them.
_PROTOCOLS_OF = {
    "u_infer": ("v4d", "tsn"),
    "clips": ("dense",),
    "units_per_second": ("untrimmed",),
    "reverse": _OF_TRIMMED,
    "shuffle": _OF_TRIMMED,
    "shuffle_seed": _OF_TRIMMED,
}


def _share(_context: click.Context, _parameter: click.Parameter, value: float | None) -> float | None:
    # click's own range lets NaN through.
    if value is not None and not 0 <= value <= 1:
        raise click.BadParameter(f"{value} is no share from 0 to 1")
    return value


def _rate(_context: click.Context, _parameter: click.Parameter, value: float) -> float:
    if not 0.01 <= value <= 100:
        raise click.BadParameter(f"{value:g} is no rate from 0.01 to 100")
    return value


MAX_BAD_OPTION = click.option(
    "--max-bad",
    type=float,
    callback=_share,
    metavar="SHARE",
    help="Stop if more than this share of the videos cannot be loaded  [default: 0.001]",
)


@click.command("eval")
@click.argument("run", type=_PATH, required=False)
@click.option(
    "--protocol",
    "kind",
    type=click.Choice(["v4d", "tsn", "dense", "untrimmed"]),
    default="v4d",
    help="v4d: Algorithm 1 of the paper, every combination of one unit per section. tsn: each unit alone through the "
    "network, and the mean of their logits. dense: the mean over clips as long as all units of training, one unit "
    "behind the other, as I3D is tested. untrimmed: all of long videos, second by second, and the best of windows of "
    "time (appendix A.1).",
)
@click.option(
    "--u-infer", type=click.IntRange(1, 64), default=10, help="Action units taken of each video, for v4d and tsn."
)
@click.option("--clips", type=click.IntRange(1, 64), default=10, help="Clips at even distances, for dense.")
@click.option(
    "--units-per-second",
    type=float,
    callback=_rate,
    default=1.0,
    metavar="RATE",
    help="Action units taken of each second of a video, for untrimmed.",
)
@click.option(
    "--crops",
    type=click.Choice(["1", "3", "10"]),
    default="3",
    help="1: the centre. 3: along the longer side. 10: corners and centre, 7/8 of the short side, mirrored too, "
    "where classes that name a direction change sides.",
)
@click.option(
    "--reverse",
    type=click.Choice(["frames", "units", "both"]),
    help="Turn the order of the frames in each unit, of the units, or of both (section 4.4).",
)
@click.option("--shuffle", type=click.Choice(["units"]), help="Draw an order of the units for each video.")
@click.option("--shuffle-seed", type=click.IntRange(0, 2**31), default=0, help="Seed of --shuffle.")
@click.option("--data", type=_PATH, help="Preprocessed dataset  [default: the one the run was trained on]")
@click.option("--split", default="val", help="Split to evaluate.")
@click.option(
    "--batch", type=click.IntRange(1), default=4, help="Videos at a time, on each process; of untrimmed ones 8 units."
)
@click.option("--gpus", type=click.IntRange(0), help="GPUs to use, 0 for the CPU  [default: all there are]")
@click.option("--procs", type=click.IntRange(1), help="Processes on the CPU, with --gpus 0  [default: 1]")
@click.option(
    "--scores",
    type=click.Choice(_SCORES),
    help="What is averaged over combinations and crops: softmax where a video is of one class, as in the paper; "
    "sigmoid where it may be of several; logits, from before either, to calibrate or to add to another network's  "
    "[default: softmax or sigmoid, as the recipe's loss]",
)
@MAX_BAD_OPTION
@click.option("--again", is_flag=True, help="Evaluate anew what is finished already.")
@click.option("--classes", is_flag=True, help="Show every class, and not only the ten that are known least.")
@click.option(
    "--submission",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Write the scores to FILE too, as ActivityNet's evaluator reads them.",
)
@click.option(
    "--submission-top",
    type=click.IntRange(1),
    metavar="K",
    help="Classes of each video in that file  [default: all]",
)
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder for scores.arrow and accuracy.json  [default: RUN/eval-SPLIT-uN, with what is not the default in its "
    "name; of a checkpoint that is named, RUN/step-S-eval-SPLIT-uN; of another dataset, eval-NAME-SPLIT-uN]",
)
def evaluate(
    run: Path | None,
    kind: Kind,
    u_infer: int,
    clips: int,
    units_per_second: float,
    crops: str,
    reverse: Reverse | None,
    shuffle: Literal["units"] | None,
    shuffle_seed: int,
    data: Path | None,
    split: str,
    batch: int,
    gpus: int | None,
    procs: int | None,
    scores: Activation | None,
    max_bad: float | None,
    again: bool,
    classes: bool,
    submission: Path | None,
    submission_top: int | None,
    out: Path | None,
) -> None:
    """Evaluate a run: accuracy, by class too, confusions and calibration.

    RUN is the folder of a run, which means its last checkpoint, RUN/best, another checkpoint, or a weights file
    (NAME.safetensors), which wants --data; by default the newest run under runs/. Stopped or killed, the same command
    goes on.

    \b
    Example: v4d eval --u-infer 10
    """
    from v4d.evaluation.evaluate import Request
    from v4d.evaluation.protocols import Protocol
    from v4d.evaluation.scores_file import read_scores
    from v4d.evaluation.submission import write_submission
    from v4d.evaluation.tables import measure_tables
    from v4d.launch import choose_gpus, is_main_process
    from v4d.runs import choose_run

    _see_that_options_fit(click.get_current_context(), kind)
    gpus = choose_gpus(gpus)
    if gpus and procs:
        raise UsageError("--procs is for the CPU: use it with --gpus 0")
    if submission_top and not submission:
        raise UsageError("--submission-top is for --submission FILE")
    run = run or choose_run()
    protocol = Protocol(kind, u_infer, clips, _CROPS[crops], reverse, shuffle, shuffle_seed, units_per_second)
    of_kind = f"-{scores}" if scores else ""
    out = out or _default_folder(run, f"eval{_of_another(run, data)}-{split}-{protocol.name}{of_kind}")
    request = Request(run, out, protocol, data, split, batch, scores, again=again, advice="--again does it anew")
    result = evaluate_and_say(request, gpus, procs or 1, max_bad)
    if not is_main_process():
        return
    for table in measure_tables(result, f"{run}, {split}", out, every_class=classes):
        console.print(table)
    console.print(f"scores: {out / 'scores.arrow'}")
    if submission:
        write_submission(submission, read_scores(out), submission_top)
        console.print(f"submission: {submission}")


@click.command()
@click.argument("a", type=_PATH)
@click.argument("b", type=_PATH)
@click.option("--common", is_flag=True, help="Compare the videos that are in both, where not all are.")
@click.option("--changed", is_flag=True, help="List the videos that only one of them is right about.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def compare(a: Path, b: Path, common: bool, changed: bool, as_json: bool) -> None:
    """Compare two evaluations video by video: B's accuracy less A's, and whether that may be chance.

    A and B are files scores.arrow, folders that hold one, or runs that were evaluated once.

    \b
    Example: v4d compare runs/fights-tsn runs/fights-v4d_resnet18
    """
    from v4d.evaluation.compare import compare as work
    from v4d.evaluation.tables import comparison_tables

    result = work(a, b, common=common)
    if as_json:
        click.echo(json.dumps({"a": str(a), "b": str(b), **result.as_document()}, indent=2))
        return
    for table in comparison_tables(result, str(a), str(b), changed):
        console.print(table)


def _see_that_options_fit(context: click.Context, kind: Kind) -> None:
    """Raise UsageError for an option that was given although it says nothing under the protocol ``kind``."""
    given = {
        parameter.name: parameter.opts[0]
        for parameter in context.command.params
        if parameter.name and context.get_parameter_source(parameter.name) is not ParameterSource.DEFAULT
    }
    for name, protocols in _PROTOCOLS_OF.items():
        if name in given and kind not in protocols:
            fitting = " or ".join(filter(None, (", ".join(protocols[:-1]), protocols[-1])))
            raise UsageError(f"{given[name]} is for --protocol {fitting}, not {kind}: leave it out")
    if "shuffle_seed" in given and "shuffle" not in given:
        raise UsageError("--shuffle-seed is for --shuffle units: give both, or leave it out")


def _of_another(run: Path, data: Path | None) -> str:
    """The name of a dataset that the run was not trained on: its scores are not to take the place of others."""
    if data is None:
        return ""
    from preprocess.index import read_dataset
    from v4d.trained import load_trained

    trained, dataset = load_trained(run), read_dataset(data)
    return "" if trained.dataset is None or trained.is_own(dataset) else f"-{dataset.name}"


def _default_folder(run: Path, name: str) -> Path:
    from v4d.checkpoint import STATE, checkpoints_in

    checkpoint = (run if run.is_dir() else run.parent).absolute()
    if (checkpoint / STATE).is_file():
        # Not in it: it is removed as training goes on.
        of_run = checkpoint.parent.parent
        folder = of_run if checkpoint in checkpoints_in(of_run).values() else checkpoint.parent
        return folder / f"{checkpoint.name}-{name}"
    if run.is_dir():
        return run / name
    # Several weights files lie beside each other, and one checkpoint in a run.
    return run.parent / (f"{run.stem}-{name}" if run.suffix == ".safetensors" or run.name == "best" else name)


def evaluate_and_say(request: Request, gpus: int, procs: int = 1, max_bad: float | None = None) -> Accuracy:
    """Evaluate as ``v4d.evaluation.evaluate.evaluate`` does, and say what is done and how long it took.

    On as many processes as GPUs, or on the CPU on ``procs``. Raises Interrupted where it was stopped, and what
    ``evaluate`` raises.
    """
    from preprocess.errors import Interrupted
    from v4d.evaluation.evaluate import evaluate_on_ranks
    from v4d.launch import is_main_process, launch

    if max_bad is not None:
        request = replace(request, max_bad=max_bad)
    is_main = is_main_process()
    if is_main:
        on = f"{gpus} GPU{'s' * (gpus > 1)}" if gpus else f"the CPU, {procs} process{'es' * (procs > 1)}"
        notes.print(f"evaluating {request.run}, split {request.split}, {request.protocol}, on {on}")
    result = launch(evaluate_on_ranks, (request, gpus), gpus, procs)
    if result is None:
        if is_main:
            raise Interrupted
        # Another process of torchrun has the accuracy.
        sys.exit(0)
    return result
