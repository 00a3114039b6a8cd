"""Networks of other projects as networks of ours: which architecture a state dict is of, and what fits where."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from pydantic import ValidationError
from torch import Tensor

from preprocess.errors import DataError
from v4d.config import RESIDUAL_BLOCKS, ModelConfig
from v4d.weights.foreign_names import NAMINGS, RELEASED, nearest_naming, our_names
from v4d.weights.inflation import Inflation, repeated

Shape = tuple[int, ...]
_BLOCK = re.compile(r"layers\.res(\d)_(\d+)(_4d)?\.(.+)")
# Nothing reads it while a norm has a momentum, and old files lack it.
_COUNTER = "num_batches_tracked"
# As long as the network is wide.
_WIDTHS = ("layers.stem.0.weight", "layers.stem.1.weight", "layers.res2_0.conv1.weight", "layers.res2_0.norm1.weight")


@dataclass(frozen=True)
class Mismatch:
    """A foreign weight whose shape does not fit ours."""

    key: str
    there: Shape
    name: str
    here: Shape

    def __str__(self) -> str:
        return f"{self.key} is {self.there} there, and {self.name} is {self.here} here"


@dataclass
class Match:
    """How the weights of a foreign state dict fit a network of ours.

    ``tensors`` are those that fit, float32 and shaped as ours, by our names; ``matched`` says where each came from.
    ``missing`` are names of ours, ``unexpected`` foreign keys.
    """

    tensors: dict[str, Tensor] = field(default_factory=dict)
    matched: list[tuple[str, str]] = field(default_factory=list)
    mismatched: list[Mismatch] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)

    def lines(self) -> Iterator[str]:
        """Every key by name, and the counts."""
        yield from (f"matched     {key} -> {name} {tuple(self.tensors[name].shape)}" for key, name in self.matched)
        yield from (f"missing     {name}" for name in self.missing)
        yield from (f"unexpected  {key}" for key in self.unexpected)
        yield from (f"mismatched  {mismatch}" for mismatch in self.mismatched)
        yield f"{len(self.matched)} matched, {len(self.missing)} missing, {len(self.unexpected)} unexpected"


def architecture(state: Mapping[str, Tensor], naming: str) -> ModelConfig:
    """The network that a state dict in ``naming`` is of, from its keys and shapes.

    Raises DataError if it is none of ours.
    """
    ours = {name: key for key, name in our_names(naming, state).items() if name}
    blocks: dict[int, int] = {}
    kernels: dict[str, Shape] = {}
    for name, key in ours.items():
        if found := _BLOCK.fullmatch(name):
            stage, i, is_4d, rest = int(found[1]), int(found[2]), found[3], found[4]
            blocks[stage] = max(blocks.get(stage, 0), i + 1)
            if is_4d and rest == "conv.weight":
                kernels[f"res{stage}.{i}"] = _kernel_4d(key, state[key])
    if not blocks:
        nearest = nearest_naming(state)
        hint = f", but as in {nearest}" if nearest else f", as {next(iter(state))} is not"
        raise DataError(f"no key is named as in {naming}{hint}")
    counts = tuple(blocks.get(stage, 0) for stage in (2, 3, 4, 5))
    depth = 50 if any(re.fullmatch(r"layers\.res\d_\d+\.conv3\.weight", name) for name in ours) else 18
    if counts != RESIDUAL_BLOCKS[depth]:
        convs = 3 if depth == 50 else 2
        raise DataError(
            f"{'+'.join(map(str, counts))} residual blocks of {convs} convolutions are no network of v4d's, "
            f"which has ResNet-18 (2+2+2+2 of 2) and ResNet-50 (3+4+6+3 of 3)"
        )
    if len(set(kernels.values())) > 1:
        said = ", ".join(f"{kernel} at {place}" for place, kernel in kernels.items())
        raise DataError(f"the 4D blocks' kernels differ, which v4d has no setting for: {said}")
    mean, std = NAMINGS[naming].pixels
    width = _width({ours[name]: len(state[ours[name]]) for name in _WIDTHS if name in ours})
    kernel = next(iter(kernels.values()), None)
    content = {"depth": depth, "base_width": width, "blocks_4d": tuple(sorted(kernels)), "mean": mean, "std": std}
    if naming == RELEASED:
        content |= {"norm_4d": False, **({"kernel_4d": kernel} if kernel else {})}
    try:
        return ModelConfig.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        raise DataError(f"{first['loc'][0]} would be {first['input']!r}: {first['msg']}") from None


def _width(widths: Mapping[str, int]) -> int:
    """How wide a network is, by the foreign keys that say so, which must agree: one of them alone may be damaged."""
    for (one, its), (other, others) in itertools.pairwise(widths.items()):
        if its != others:
            raise DataError(f"{one} is of a network {its} channels wide, and {other} of one {others} wide")
    return next(iter(widths.values()), 64)


def match(
    state: Mapping[str, Tensor], naming: str, shapes: Mapping[str, Shape], inflate: Inflation = repeated
) -> Match:
    """Fit a state dict in ``naming`` to a network of ours, whose state dict has ``shapes``.

    A 2D kernel is made a 3D one by ``inflate`` where the naming is of 2D networks. A classifier of another number of
    classes does not fit.
    """
    result = Match()
    for key, name in our_names(naming, state).items():
        if name is None or name not in shapes or name in result.tensors:
            result.unexpected.append(key)
            continue
        fitted = _as_ours(state[key], name, shapes[name], naming, inflate)
        if fitted is None:
            result.mismatched.append(Mismatch(key, tuple(state[key].shape), name, shapes[name]))
            continue
        result.tensors[name] = fitted
        result.matched.append((key, name))
    found = {*result.tensors, *(mismatch.name for mismatch in result.mismatched)}
    result.missing = [name for name in shapes if name not in found and not name.endswith(_COUNTER)]
    return result


def _as_ours(weight: Tensor, name: str, shape: Shape, naming: str, inflate: Inflation) -> Tensor | None:
    """``weight`` shaped as ours, or None if it does not fit."""
    if not name.endswith(_COUNTER):
        weight = weight.float()
    if naming == "torchvision" and weight.ndim == 4 and len(shape) == 5:
        weight = inflate(weight, shape[2])
    elif "_4d.conv." in name:
        weight = _weight_4d(weight)
    return weight.clone() if tuple(weight.shape) == shape else None


def _weight_4d(weight: Tensor) -> Tensor:
    """The weight of a released 4D block as (C, C, k_U, k_T, k_H, k_W), or itself if it has no form that is known.

    The authors' networks have it in one of two forms, by their option of a fast implementation: (C, C, k_U, k_T, 1)
    of a 3D convolution over (U, T, H·W), and (k_U, C, C, k_T, k_H, k_W). (C, C, k_U, k_T, k_H, k_W) is taken too. C is
    larger than k_U, so that the channels are the two equal sizes that are next to each other.
    """
    shape = tuple(weight.shape)
    if len(shape) == 5 and shape[0] == shape[1] and shape[4] == 1:
        return weight.unsqueeze(5)
    if len(shape) == 6 and shape[1] == shape[2] and shape[0] < shape[1]:
        return weight.permute(1, 2, 0, 3, 4, 5)
    return weight


def _kernel_4d(key: str, weight: Tensor) -> Shape:
    shape = tuple(_weight_4d(weight).shape)
    if len(shape) != 6 or shape[0] != shape[1] or any(extent % 2 == 0 for extent in shape[2:]):
        raise DataError(f"{key} is {tuple(weight.shape)}, which is no known form of a 4D kernel")
    return shape[2:]
