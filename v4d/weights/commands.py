"""The commands that read and write weights files: parse, call, print."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from preprocess.errors import UsageError

if TYPE_CHECKING:
    from v4d.config import Loss

_PATH = click.Path(path_type=Path)
# Those of v4d.weights.foreign_names, which would import torch, for --help too.
_NAMINGS = ("torchvision", "pytorchvideo", "pyslowfast", "mmaction2", "v4d-released")


def _weights_file(_context: click.Context, _parameter: click.Parameter, path: Path) -> Path:
    # That of v4d.weights.weights_file, which would import torch. By it --init and eval know the file.
    if path.suffix != ".safetensors":
        raise UsageError(f"--out {path}: name a weights file as NAME.safetensors, by which it is known")
    return path


_OUT = click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    required=True,
    callback=_weights_file,
    help="Weights file to write, as NAME.safetensors.",
)


@click.command("import-weights")
@click.argument("file", type=_PATH)
@click.option("--from", "naming", type=click.Choice(_NAMINGS), required=True, help="The project that FILE is from.")
@_OUT
@click.option("--classes", type=_PATH, help="Names of the classes: a line each, or JSON.")
@click.option("--units", type=click.IntRange(1), help="Action units it was trained on  [default: 4 of v4d-released, 1]")
@click.option("--frames", type=click.IntRange(1), default=8, help="Frames of a unit that it was trained on.")
@click.option("--stride", type=click.IntRange(1), default=8, help="Frames from one to the next of a unit.")
@click.option("--crop", type=click.IntRange(16), default=256, help="Side of the crops in test.")
@click.option(
    "--loss",
    type=click.Choice(["softmax", "sigmoid"]),
    default="softmax",
    help="softmax: it tells of a video which class it is; sigmoid: of each class by itself, as in Charades.",
)
@click.option("--strict", is_flag=True, help="Fail on missing or unexpected keys, 4D blocks and classifier aside.")
def import_weights(
    file: Path,
    naming: str,
    out: Path,
    classes: Path | None,
    units: int | None,
    frames: int,
    stride: int,
    crop: int,
    loss: Loss,
    strict: bool,
) -> None:
    """Make a weights file of a network that another project trained.

    FILE is a state dict, or a checkpoint that holds one: a ResNet of torchvision, slow_r50 of pytorchvideo or
    PySlowFast, slowonly of mmaction2, or a released V4D. Each key is printed with what became of it.

    \b
    Example: v4d import-weights SLOW_8x8_R50.pyth --from pytorchvideo --out slow_r50.safetensors
    """
    from v4d.config import DataConfig
    from v4d.weights.class_names import read_class_names
    from v4d.weights.imported import check, read_foreign
    from v4d.weights.weights_file import save_weights

    names = read_class_names(classes) if classes else ()
    model, found = read_foreign(file, naming, names)
    for line in found.lines():
        click.echo(line)
    check(found, file, strict)
    units = units or (4 if naming == "v4d-released" else 1)
    data = DataConfig(units=units, frames=frames, stride=stride, test_crop=crop)
    save_weights(out, model, names, data, source=f"{naming}: {file.name}", loss=loss)
    click.echo(
        f"{out}: ResNet-{model.config.depth}, {model.num_classes} classes, for U={units} units of T={frames} frames"
    )


@click.command("export-weights")
@click.argument("run", type=_PATH, required=False)
@_OUT
def export_weights(run: Path | None, out: Path) -> None:
    """Make a weights file of a run's last checkpoint.

    RUN is the folder of a run, or a checkpoint; by default the newest run under runs/.

    \b
    Example: v4d export-weights runs/fights-v4d_resnet18 --out fights.safetensors
    """
    from v4d.runs import choose_run
    from v4d.trained import load_run
    from v4d.weights.weights_file import save_weights

    run = run or choose_run()
    trained = load_run(run)
    step, recipe = trained.about["step"], trained.recipe
    source = f"recipe {recipe.name}, step {step}"
    save_weights(out, trained.model, trained.classes, recipe.data, source, loss=recipe.train.loss)
    click.echo(f"{out}: {len(trained.classes)} classes, after step {step} of {run}")
