"""The command ``v4d report``: parses, calls, prints."""

from __future__ import annotations

from pathlib import Path

import click

from preprocess.console import console, notes

_PATH = click.Path(path_type=Path)


@click.command()
@click.argument("run", type=_PATH, required=False)
@click.option("--data", type=_PATH, help="Dataset the frames are taken from  [default: the one the run was trained on]")
@click.option(
    "--evaluation",
    metavar="NAME",
    help="Folder of the evaluation in RUN whose mistakes are shown in pictures  [default: that of held-out videos, "
    "the last checkpoint and the most units]",
)
@click.option("--mistakes", type=click.IntRange(0, 100), default=8, help="How many of the surest mistakes to show.")
@click.option(
    "--gpus", type=click.IntRange(0, 1), help="1 for the GPU, 0 for the CPU  [default: the GPU if there is one]"
)
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="The page  [default: RUN/report.html]")
def report(
    run: Path | None, data: Path | None, evaluation: str | None, mistakes: int, gpus: int | None, out: Path | None
) -> None:
    """Write what is known of a run into one HTML page that needs no network.

    It has the curves of training, the scores of each evaluation in the run's folder, its classes and their confusion,
    the surest mistakes in pictures, the recipe and the versions. RUN is the folder of a run; by default the newest one
    under runs/.

    \b
    Example: v4d report runs/fights-v4d_resnet18
    """
    import torch

    from v4d.launch import choose_gpus
    from v4d.report.page import write_report
    from v4d.runs import choose_run

    device = torch.device("cuda" if min(1, choose_gpus(gpus)) else "cpu")
    run = run or choose_run()
    out = out or run / "report.html"
    for note in write_report(run, out, root=data, evaluation=evaluation, mistakes=mistakes, device=device):
        notes.print(f"note: {note}")
    console.print(f"report: {out}")
