"""The command ``v4d export``: parses, calls, prints."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from preprocess.console import notes, notes_of
from preprocess.errors import UsageError

if TYPE_CHECKING:
    from v4d.inference import Activation

_PATH = click.Path(path_type=Path)
_SUFFIXES = {"torch": ".pt2", "onnx": ".onnx"}


@click.command()
@click.argument("run", type=_PATH, required=False)
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    required=True,
    help="Program to write, as NAME.pt2 or NAME.onnx.",
)
@click.option(
    "--format", "kind", type=click.Choice(list(_SUFFIXES)), help="Of the program  [default: as --out is named]"
)
@click.option(
    "--u-infer",
    type=click.IntRange(1, 64),
    help="Action units of a video; if more than in training, Algorithm 1 in the program  [default: as in training]",
)
@click.option(
    "--scores",
    type=click.Choice(["softmax", "sigmoid", "logits"]),
    help="What comes out  [default: softmax or sigmoid, as the recipe's loss]",
)
@click.option(
    "--data",
    type=_PATH,
    help="Preprocessed dataset, of which the program says how frames were made  [default: the one it was trained on]",
)
def export(
    run: Path | None, out: Path, kind: str | None, u_infer: int | None, scores: Activation | None, data: Path | None
) -> None:
    """Write a network as a program for other software: torch.export or ONNX.

    RUN is the folder of a run, which means its last checkpoint, RUN/best, another checkpoint, or a weights file; by
    default the newest run under runs/. The program takes pixels (videos, units, frames, height, width, 3) in uint8,
    normalises them itself and gives scores (videos, classes). What else a server has to know lies in it as JSON. It is
    compared with the network before it gets its name.

    \b
    Example: v4d export runs/fights-v4d_resnet18 --out fights.onnx --u-infer 10
    """
    from v4d.export.programs import TOLERANCE, export_program
    from v4d.runs import choose_run
    from v4d.trained import load_trained

    named = next((name for name, suffix in _SUFFIXES.items() if out.suffix == suffix), None)
    kind = kind or named
    if kind is None or named not in (None, kind):
        raise UsageError(f"--out {out}: name a program as NAME.pt2 (torch) or NAME.onnx (onnx)")
    run = run or choose_run()
    trained = load_trained(run)
    dataset = trained.dataset_of_frames(data, notes_of(False))
    if dataset is None:
        notes.print(f"note: the dataset of {run} is not known, or gone: {out} says not how frames are made; use --data")
    difference = export_program(
        trained,
        out,
        kind="torch" if kind == "torch" else "onnx",
        units_infer=u_infer,
        activation=scores,
        dataset=dataset,
    )
    units = u_infer or trained.recipe.data.units
    click.echo(
        f"{out}: {kind} program of {run}, {units} units of {trained.recipe.data.frames} frames of "
        f"{trained.recipe.data.test_crop} pixels; scores differ by at most {difference:.1g} from the network's "
        f"(allowed: {TOLERANCE:g})"
    )
