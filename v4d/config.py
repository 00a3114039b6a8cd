"""Recipes: what to train and how, as nested, validated configuration read from TOML."""

from __future__ import annotations

import difflib
import sys
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from pipelines import SCALES, Sampling
from preprocess.errors import UsageError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


# Residual blocks of res2 to res5.
RESIDUAL_BLOCKS = {18: (2, 2, 2, 2), 50: (3, 4, 6, 3)}


class FitsConfig(_Section):
    """Which datasets and devices a recipe is chosen for where none is named. ``kinds`` empty: any dataset."""

    kinds: tuple[str, ...] = ()
    devices: tuple[Literal["cpu", "cuda"], ...] = ("cpu", "cuda")


class DataConfig(_Section):
    """Action units: how many of a video, of how many frames, and the crops in training and test, in pixels.

    ``over`` "segment" takes the segments of untrimmed videos in place of videos. ``keyframe_starts`` lets units of
    training start on keyframes, which spares decoding where the dataset's codec is vp9 or h264.
    """

    units: int = Field(4, ge=1)
    frames: int = Field(4, ge=1)
    stride: int = Field(8, ge=1)
    fit_stride: bool = False
    over: Literal["video", "segment"] = "video"
    keyframe_starts: bool = False
    train_crop: int = Field(224, ge=16)
    test_crop: int = Field(256, ge=16)
    scales: tuple[Annotated[float, Field(gt=0, le=1)], ...] = Field(SCALES, min_length=1)

    def train_sampling(self) -> Sampling:
        """What the training pipeline takes from each video."""
        take = self._sampling(self.units, self.train_crop)
        return replace(take, scales=self.scales, keyframe_starts=self.keyframe_starts)

    def test_sampling(self, units: int) -> Sampling:
        """What the test pipeline takes from each video: ``units`` action units.

        With ``fit_stride`` the stride stays that of training: it fits the sections of U_train units, not ``units``.
        """
        return replace(self._sampling(units, self.test_crop), fit_to=self.units)

    def _sampling(self, units: int, crop: int) -> Sampling:
        return Sampling(units, self.frames, self.stride, crop, self.fit_stride, over=self.over)


_Positive = Annotated[float, Field(gt=0)]


BlockKind = Literal["conv4d", "nonlocal", "cgnl"]


class ModelConfig(_Section):
    """The network: I3D-S ResNet (Table 1 of the paper) and the places of its 4D blocks.

    ``blocks_4d`` names residual blocks, as in ``res3.1``, that a 4D block follows; with none the network is TSN on
    I3D-S, and with units = 1 it is I3D-S. ``block_4d`` is the kind of these blocks: the paper's residual 4D block, or
    those of Table 3 in its place, non-local and compact generalized non-local. ``kernel_4d`` is for the first kind
    only. ``norm_init_4d`` is where the weights of the 4D blocks' norms start: at 0 the network starts as TSN, as the
    paper has it for a trained 3D network. From scratch that is a saddle which the 4D blocks are slow to leave (the
    demo's do not in 10 epochs), and 1 is better. Without ``norm_4d`` a 4D block is its convolution alone, Y = X +
    conv4d(X), that starts at 0, as in the authors' released networks.

    ``mean`` and ``std`` of red, green and blue, 0 to 255, are what the pixels are normalised with: ImageNet's, unless
    the weights come from a network that knows others.
    """

    depth: Literal[18, 50] = 18
    base_width: int = Field(64, ge=4)
    blocks_4d: tuple[str, ...] = ("res3.1", "res4.1")
    block_4d: BlockKind = "conv4d"
    kernel_4d: tuple[int, int, int, int] = (3, 3, 1, 1)
    norm_init_4d: float = Field(0.0, ge=0)
    norm_4d: bool = True
    dropout: float = Field(0.5, ge=0, lt=1)
    mean: tuple[float, float, float] = (123.675, 116.28, 103.53)
    std: tuple[_Positive, _Positive, _Positive] = (58.395, 57.12, 57.375)

    @model_validator(mode="after")
    def _check(self) -> ModelConfig:
        blocks = RESIDUAL_BLOCKS[self.depth]
        places = [f"res{stage}.{i}" for stage, count in enumerate(blocks, 2) for i in range(count)]
        for place in self.blocks_4d:
            if place not in places:
                raise ValueError(f"blocks_4d names '{place}', ResNet-{self.depth} has {', '.join(places)}")
        if any(extent < 1 or extent % 2 == 0 for extent in self.kernel_4d):
            raise ValueError(f"kernel_4d must be odd extents, not {self.kernel_4d}")
        if self.block_4d != "conv4d" and not self.norm_4d:
            raise ValueError(f"block_4d '{self.block_4d}' has a norm: norm_4d = false is for 'conv4d'")
        # They halve the channels, and the second parts these into 8 groups.
        divisor = {"conv4d": 1, "nonlocal": 2, "cgnl": 16}[self.block_4d]
        for place in self.blocks_4d:
            channels = (self.base_width << int(place[3]) - 2) * (1 if self.depth == 18 else 4)
            if channels % divisor:
                raise ValueError(
                    f"block_4d '{self.block_4d}' needs channels divisible by {divisor}, {place} has {channels} "
                    f"with base_width {self.base_width}"
                )
        return self


class OptimConfig(_Section):
    """SGD. ``schedule`` "step" multiplies the rate by ``gamma`` at each of ``milestones`` (in epochs), "cosine"
    lets it fall to 0; both after a linear warm-up."""

    lr: float = Field(0.01, gt=0)
    momentum: float = Field(0.9, ge=0, lt=1)
    nesterov: bool = False
    weight_decay: float = Field(1e-5, ge=0)
    epochs: int = Field(100, ge=1)
    schedule: Literal["step", "cosine"] = "step"
    milestones: tuple[int, ...] = (35, 60, 80)
    gamma: float = Field(0.1, gt=0, le=1)
    warmup_epochs: float = Field(0.0, ge=0)

    @model_validator(mode="after")
    def _check(self) -> OptimConfig:
        if self.nesterov and not self.momentum:
            raise ValueError("nesterov needs a momentum above 0")
        return self


class TrainConfig(_Section):
    """The run. ``checkpoint_every`` is in steps, ``validate_every`` in epochs (0: only after the last).

    ``keep_every`` is in epochs: after each so many a checkpoint is written that stays (0: only the last and the best).

    ``init`` says where the weights come from: "" is nowhere, else see v4d/weights/initial.py.
    """

    global_batch: int = Field(64, ge=1)
    seed: int = Field(0, ge=0, lt=2**32)
    init: str = ""
    precision: Literal["fp32", "bf16"] = "fp32"
    channels_last: bool = True
    compile: bool = False
    checkpoint_every: int = Field(200, ge=1)
    validate_every: int = Field(5, ge=0)
    keep_every: int = Field(0, ge=0)

    def share_of(self, ranks: int) -> int:
        """Videos of a global batch on each rank. Raises UsageError if they do not divide evenly."""
        if self.global_batch % ranks:
            raise UsageError(f"train.global_batch = {self.global_batch} does not divide over {ranks} processes")
        return self.global_batch // ranks


class Recipe(_Section):
    """Everything that a training run depends on besides its dataset."""

    name: str
    about: str = ""
    fits: FitsConfig = FitsConfig()
    data: DataConfig = DataConfig()
    model: ModelConfig = ModelConfig()
    optim: OptimConfig = OptimConfig()
    train: TrainConfig = TrainConfig()


def packaged_recipes() -> dict[str, Recipe]:
    """The recipes that come with v4d, by name."""
    files = sorted(
        (f for f in resources.files("v4d.recipes").iterdir() if f.name.endswith(".toml")), key=lambda f: f.name
    )
    found = {}
    for file in files:
        name = file.name.removesuffix(".toml")
        found[name] = _validated({"name": name, **tomllib.loads(file.read_text())}, name)
    return found


def load_recipe(name: str, settings: tuple[str, ...] = ()) -> Recipe:
    """A packaged recipe, or one from a TOML file, with ``settings`` of the form ``section.key=value`` over it.

    Values are TOML (``model.blocks_4d=[]``); what is no TOML is taken as a string.
    Raises UsageError for an unknown recipe, section, key or value.
    """
    recipes = packaged_recipes()
    if name in recipes:
        content: dict[str, Any] = recipes[name].model_dump()
    elif Path(name).is_file():
        try:
            content = {"name": Path(name).stem, **tomllib.loads(Path(name).read_text())}
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise UsageError(f"{name} is no TOML: {error}") from None
    else:
        raise UsageError(f"there is no recipe '{name}'{nearest(name, list(recipes))}; there are {', '.join(recipes)}")
    for setting in settings:
        path, equals, value = setting.partition("=")
        section, dot, key = path.strip().partition(".")
        if not equals or not dot:
            raise UsageError(f"--set {setting}: expected section.key=value, as in optim.lr=0.02")
        content.setdefault(section, {})
        if not isinstance(content[section], dict):
            raise UsageError(f"--set {setting}: '{section}' is no section")
        try:
            content[section][key] = tomllib.loads(f"value = {value}")["value"]
        except tomllib.TOMLDecodeError:
            content[section][key] = value
    return _validated(content, name)


def _validated(content: dict[str, Any], name: str) -> Recipe:
    try:
        return Recipe.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        place = [str(part) for part in first["loc"]]
        hint = ""
        if first["type"] == "extra_forbidden":
            section: Any = Recipe if len(place) == 1 else Recipe.model_fields[place[0]].annotation
            hint = nearest(place[-1], list(section.model_fields))
            raise UsageError(f"recipe {name}: there is no '{'.'.join(place)}'{hint}") from None
        message = first["msg"].removeprefix("Value error, ")
        raise UsageError(f"recipe {name}: {'.'.join(place)}: {message}, not {first['input']!r}"[:500]) from None


def nearest(name: str, names: list[str]) -> str:
    """What to say after an unknown name: the one of ``names`` that was meant, or nothing."""
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    return f" (did you mean '{close[0]}'?)" if close else ""
