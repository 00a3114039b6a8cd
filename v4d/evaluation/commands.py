"""The command ``v4d eval``: parses, calls, prints."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.table import Table

from preprocess.console import console, notes

if TYPE_CHECKING:
    from v4d.evaluation.evaluate import Accuracy
    from v4d.inference import Activation

_PATH = click.Path(path_type=Path)
# Those of v4d.inference, which would import torch, for --help too.
_SCORES = ("softmax", "logits", "sigmoid")


def _share(_context: click.Context, _parameter: click.Parameter, value: float | None) -> float | None:
    # click's own range lets NaN through.
    if value is not None and not 0 <= value <= 1:
        raise click.BadParameter(f"{value} is no share from 0 to 1")
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
    "--u-infer", type=click.IntRange(1, 64), default=10, help="Action units taken of each video (Algorithm 1)."
)
@click.option("--data", type=_PATH, help="Preprocessed dataset  [default: the one the run was trained on]")
@click.option("--split", default="val", help="Split to evaluate.")
@click.option("--batch", type=click.IntRange(1), default=4, help="Videos at a time.")
@click.option(
    "--gpus", type=click.IntRange(0, 1), help="1 for the GPU, 0 for the CPU  [default: the GPU if there is one]"
)
@click.option(
    "--scores",
    type=click.Choice(_SCORES),
    help="What is averaged over combinations and crops: softmax where a video is of one class, as in the paper; "
    "sigmoid where it may be of several; logits, from before either, to calibrate or to add to another network's  "
    "[default: softmax or sigmoid, as the recipe's loss]",
)
@MAX_BAD_OPTION
@click.option(
    "--out",
    type=_PATH,
    help="Folder for scores.arrow and accuracy.json  [default: RUN/eval-SPLIT-uN, with -SCORES if given; "
    "of a checkpoint that is named, RUN/step-S-eval-SPLIT-uN]",
)
def evaluate(
    run: Path | None,
    u_infer: int,
    data: Path | None,
    split: str,
    batch: int,
    gpus: int | None,
    scores: Activation | None,
    max_bad: float | None,
    out: Path | None,
) -> None:
    """Evaluate a run with Algorithm 1 and three crops.

    RUN is the folder of a run, which means its last checkpoint, RUN/best, another checkpoint, or a weights file
    (NAME.safetensors), which wants --data; by default the newest run under runs/.

    \b
    Example: v4d eval --u-infer 10
    """
    from v4d.launch import choose_gpus
    from v4d.runs import choose_run

    gpus = min(1, choose_gpus(gpus))
    run = run or choose_run()
    kind = f"-{scores}" if scores else ""
    out = out or _default_folder(run, f"eval-{split}-u{u_infer}{kind}")
    result = evaluate_and_say(run, u_infer, gpus, data, split, batch, out, max_bad, scores)
    table = Table("videos", "top-1", f"top-{result.top_k}", "chance", title=f"{run}, {split}")
    table.add_row(str(result.videos), f"{result.top1:.1%}", f"{result.top5:.1%}", f"{result.chance:.1%}")
    console.print(table)
    console.print(f"scores: {out / 'scores.arrow'}")


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


def evaluate_and_say(
    run: Path,
    u_infer: int,
    gpus: int,
    data: Path | None,
    split: str,
    batch: int,
    out: Path,
    max_bad: float | None,
    scores: Activation | None = None,
) -> Accuracy:
    """Evaluate as ``v4d.evaluation.evaluate.evaluate`` does, and print what is done and how long it took."""
    import torch

    from pipelines import MAX_BAD
    from v4d.evaluation.evaluate import evaluate as work

    device = torch.device("cuda" if gpus else "cpu")
    notes.print(f"evaluating {run}, split {split}, U_infer {u_infer}, on {device.type}")
    began = time.monotonic()
    result = work(
        run,
        units_infer=u_infer,
        device=device,
        root=data,
        split=split,
        batch=batch,
        out=out,
        console=notes,
        max_bad=MAX_BAD if max_bad is None else max_bad,
        scores=scores,
    )
    left_out = f", {result.left_out} left out" if result.left_out else ""
    notes.print(f"evaluated {result.videos} videos{left_out} in {time.monotonic() - began:.0f} s")
    return result
