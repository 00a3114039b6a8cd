"""Where a run's weights come from: ``train.init`` of a recipe, which ``v4d train --init`` sets.

- "imagenet": torchvision's ResNet of the recipe's depth (IMAGENET1K_V1), fetched once into torch's cache;
- "imagenet=FILE": the same from a file of torch.save or safetensors;
- "imagenet-center", "imagenet-center=FILE": the same with 2D kernels at the middle of the 3D ones, where "imagenet"
  repeats them: see ``inflation``;
- "FILE": a weights file (.safetensors), or a file of torch.save that holds such a ResNet;
- "RUN": the folder of a run, which means its last checkpoint, RUN/best, or the folder of another checkpoint.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from http.client import HTTPException
from pathlib import Path
from urllib.error import URLError

import torch
from torch import Tensor

from preprocess.durable_files import sha256_of
from preprocess.errors import DataError, UsageError
from v4d.checkpoint import find_and_load, names_checkpoint
from v4d.models.network import V4D
from v4d.weights.foreign_names import NAMINGS, nearest_naming
from v4d.weights.foreign_networks import match
from v4d.weights.imported import check, may_be_fresh
from v4d.weights.inflation import Inflation, centred, repeated
from v4d.weights.torch_files import read_state_dict
from v4d.weights.weights_file import SUFFIX, WeightsInfo, read_weights

_IMAGENET: dict[str, Inflation] = {"imagenet": repeated, "imagenet-center": centred}
# With the first digits of their sha256, which is checked.
_FILES = {18: "resnet18-f37072fd.pth", 50: "resnet50-0676ba61.pth"}
_SITE = "https://download.pytorch.org/models/"


def initialise(model: V4D, init: str, classes: Sequence[str] = (), starts_from: str = "") -> str:
    """Put the weights that ``init`` names into ``model``, and return a line that says what came and what is fresh.

    A second line follows if the source is known to be of another recipe than ``starts_from``, where that names one.

    4D blocks that the source has not stay as they are, and the classifier too if the source tells other classes apart
    than ``classes``, or another number of them. Where the source or ``classes`` name none, as many are taken for the
    same.

    Raises DataError if the source is missing, damaged, or of another architecture, naming the first key that differs;
    UsageError if it expects pixels normalised otherwise than the recipe says.
    """
    named, equals, file = init.partition("=")
    inflate = _IMAGENET.get(named, repeated)
    is_imagenet_file = bool(equals) and named in _IMAGENET
    path = Path(file) if is_imagenet_file else Path(init)
    note, origin = "", ""
    if init in _IMAGENET:
        path = _fetched(model, init)
        source = path.name
        tensors = _as_ours(read_state_dict(path), inflate, model, path)
    elif names_checkpoint(path):
        found, checkpoint = find_and_load(path)
        source = str(found)
        info, tensors = checkpoint.weights_info, checkpoint.model
        origin = info.source
        tensors, note = _of_ours(info, tensors, found, model, classes)
    elif path.suffix == SUFFIX and not is_imagenet_file:
        source = str(path)
        info, tensors = read_weights(path)
        origin = info.source
        tensors, note = _of_ours(info, tensors, path, model, classes)
    else:
        source = str(path)
        state = read_state_dict(path)
        _check_naming(state, path, named)
        tensors = _as_ours(state, inflate, model, path)
    model.load_state_dict(tensors, strict=False)
    fresh = [name for name in dict(model.named_parameters()) if name not in tensors]
    parts = sorted({name.split(".")[1] if name.startswith("layers.") else name.split(".")[0] for name in fresh})
    line = f"weights from {source}; fresh: {', '.join(parts) or 'none'}{note}"
    if model.config.norm_4d and model.config.norm_init_4d and any("_4d" in part for part in parts):
        start = f"model.norm_init_4d = {model.config.norm_init_4d:g}"
        line += f" ({start}: with 0 they would leave the trained network as it is)"
    of_recipe = re.fullmatch(r"recipe (.+), step \d+", origin)
    if starts_from and of_recipe and of_recipe[1] != starts_from:
        line += (
            f"\nnote: {source} is of recipe {of_recipe[1]}, and train.starts_from = {starts_from}: is a stage missing?"
        )
    return line


def _fetched(model: V4D, init: str) -> Path:
    """The file of torchvision's network, from torch's cache, where it is put if it is not there yet."""
    name = _FILES[model.config.depth]
    if model.config.base_width != 64:
        raise UsageError(f"train.init = {init} wants model.base_width = 64, not {model.config.base_width}")
    path = Path(torch.hub.get_dir()) / "checkpoints" / name
    digits = path.stem.rpartition("-")[2]
    if not path.exists():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(_SITE + name, str(path), hash_prefix=digits, progress=False)
        except (URLError, HTTPException, OSError, RuntimeError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise DataError(
                f"{_SITE}{name} cannot be fetched ({reason}): bring the file, then --init {init}=FILE"
            ) from None
    # torch compares the hash of what it fetches, not of what it finds.
    if not sha256_of(path).startswith(digits):
        raise DataError(
            f"{path} is damaged: its sha256 is not {digits}..., as its name says: remove it, to have it fetched anew"
        )
    return path


def _check_naming(state: Mapping[str, Tensor], path: Path, named: str) -> None:
    naming = nearest_naming(state)
    if naming == "torchvision":
        return
    if naming is None and any(name.startswith("layers.stem.") for name in state):
        raise DataError(f"{path} is a weights file of v4d: name it without {named}=")
    if naming is None:
        raise DataError(f"{path} is no ResNet of torchvision: it has {next(iter(state))}")
    raise DataError(f"{path} is a network of {naming}: make it a weights file with v4d import-weights --from {naming}")


def _as_ours(state: Mapping[str, Tensor], inflate: Inflation, model: V4D, path: Path) -> dict[str, Tensor]:
    _check_pixels(NAMINGS["torchvision"].pixels, model, path)
    shapes = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    found = match(state, "torchvision", shapes, inflate)
    found.mismatched = [m for m in found.mismatched if not m.name.startswith("classifier.")]
    check(found, path, strict=True)
    return found.tensors


def _of_ours(
    info: WeightsInfo, tensors: dict[str, Tensor], path: Path, model: V4D, classes: Sequence[str]
) -> tuple[dict[str, Tensor], str]:
    """The tensors to take, and what is to be said of the classifier, if anything."""
    _check_pixels((info.model.mean, info.model.std), model, path)
    expected = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    named = bool(info.classes and classes)
    alien = sorted(set(info.classes) ^ set(classes)) if named else []
    if info.num_classes != model.num_classes or alien:
        tensors = {name: value for name, value in tensors.items() if not name.startswith("classifier.")}
    blocks_there = {name.split(".")[1] for name in tensors if "_4d." in name}
    # The backbone first, for its differences say most.
    for name in sorted(expected.keys() | tensors.keys(), key=lambda name: (may_be_fresh(name), name)):
        there = tuple(tensors[name].shape) if name in tensors else None
        # A 4D block comes whole or not at all.
        is_fresh = there is None and may_be_fresh(name) and name.split(".")[1] not in blocks_there
        if not is_fresh and there != expected.get(name):
            here = expected.get(name, "no such weight")
            raise DataError(f"{path} is of another network: {name} is {there or 'missing'} there and {here} here")
    if info.num_classes != model.num_classes or not named or tuple(classes) == info.classes:
        return tensors, ""
    if alien:
        return tensors, f" (of other classes there: only one side has '{alien[0]}')"
    rows = [info.classes.index(name) for name in classes]
    tensors |= {name: value[rows] for name, value in tensors.items() if name.startswith("classifier.")}
    return tensors, "; the classifier's rows are put in the dataset's order"


def _check_pixels(pixels: tuple[tuple[float, ...], tuple[float, ...]], model: V4D, path: Path) -> None:
    ours = model.config.mean, model.config.std
    if pixels != ours:
        mean, std = (f"[{', '.join(map(str, numbers))}]" for numbers in pixels)
        raise UsageError(
            f"{path} expects pixels normalised otherwise than the recipe: add "
            f"--set model.mean='{mean}' --set model.std='{std}'"
        )
