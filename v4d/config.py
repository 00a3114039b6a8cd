"""Recipes: what to train and how, as nested, validated configuration. What each key means is the text below it."""

from __future__ import annotations

import difflib
from dataclasses import replace
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from pipelines import SCALES, Sampling
from preprocess.errors import UsageError


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False)


# Residual blocks of res2 to res5.
RESIDUAL_BLOCKS = {18: (2, 2, 2, 2), 50: (3, 4, 6, 3)}


class FitsConfig(_Section):
    """Which datasets and devices a recipe is for, and whether it is chosen where none is named."""

    kinds: tuple[str, ...] = ()
    """Kinds of datasets, as `v4d info` shows them; none: any."""
    devices: tuple[Literal["cpu", "cuda"], ...] = ("cpu", "cuda")
    by_name: bool = False
    """Take it only where it is named."""


class DataConfig(_Section):
    """Action units: how many of a video, of how many frames, and the crops in training and test, in pixels."""

    units: int = Field(4, ge=1)
    """Action units of a video in training."""
    frames: int = Field(4, ge=1)
    """Frames of a unit."""
    stride: int = Field(8, ge=1)
    """From one frame of a unit to the next."""
    fit_stride: bool = False
    """Shorten the stride where sections are shorter than a unit."""
    over: Literal["video", "segment"] = "video"
    """What a sample is: a video, or each segment of an untrimmed one."""
    keyframe_starts: bool = False
    """Units of training start on keyframes, which spares decoding where the dataset's codec is vp9 or h264."""
    train_crop: int = Field(224, ge=16)
    """Side of the crops in training, in pixels."""
    test_crop: int = Field(256, ge=16)
    """Side of the crops in test, in pixels."""
    scales: tuple[Annotated[float, Field(gt=0, le=1)], ...] = Field(SCALES, min_length=1)
    """Of the multi-scale crop in training."""

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

    With no 4D blocks it is TSN on I3D-S, and with units = 1 it is I3D-S. ``norm_init_4d`` = 0 makes it start as TSN, as
    the paper has it for a trained 3D network. From scratch that is a saddle which the 4D blocks are slow to leave (the
    demo's do not in 10 epochs), and 1 is better. Without ``norm_4d`` a 4D block is its convolution alone, Y = X +
    conv4d(X), that starts at 0, as in the authors' released networks.
    """

    depth: Literal[18, 50] = 18
    """ResNet-18 or -50."""
    base_width: int = Field(64, ge=4)
    """Channels of the stem."""
    blocks_4d: tuple[str, ...] = ("res3.1", "res4.1")
    """Residual blocks that a 4D block follows; none: TSN, or I3D-S where units = 1."""
    block_4d: BlockKind = "conv4d"
    """The paper's residual 4D block, or in its place those of Table 3: "nonlocal", "cgnl"."""
    kernel_4d: tuple[int, int, int, int] = (3, 3, 1, 1)
    """Odd extents over units, frames, height and width; for "conv4d" only."""
    norm_init_4d: float = Field(0.0, ge=0)
    """Where the weights of the 4D blocks' norms start; at 0 the network starts as TSN."""
    norm_4d: bool = True
    """Without: 4D blocks are the convolution alone, as in the authors' released networks."""
    dropout: float = Field(0.5, ge=0, lt=1)
    """Before the classifier."""
    mean: tuple[float, float, float] = (123.675, 116.28, 103.53)
    """Of red, green and blue, 0 to 255, that pixels are normalised with: ImageNet's."""
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
    """SGD and its learning rate."""

    lr: float = Field(0.01, gt=0)
    """Learning rate."""
    lr_per: int = Field(0, ge=0)
    """Videos of a global batch that lr is meant for: the rate is lr · global_batch / lr_per; 0: lr as it is."""
    momentum: float = Field(0.9, ge=0, lt=1)
    nesterov: bool = False
    weight_decay: float = Field(1e-5, ge=0)
    decay_norms: bool = True
    """Without: no weight decay for norms and biases."""
    epochs: int = Field(100, ge=1)
    schedule: Literal["step", "cosine"] = "step"
    """How the rate falls after the warm-up: "step" at each of milestones, "cosine" to 0."""
    milestones: tuple[int, ...] = (35, 60, 80)
    """Epochs at which the rate is multiplied by gamma; for "step"."""
    gamma: float = Field(0.1, gt=0, le=1)
    warmup_epochs: float = Field(0.0, ge=0)
    """Epochs, or parts of one, in which the rate rises evenly from 0."""
    clip_norm: float = Field(0.0, ge=0)
    """The largest norm of the gradient, of all parameters together: a larger one is scaled down to it; 0: any."""
    frozen: tuple[str, ...] = ()
    """Parameters that do not change, as patterns of their names: "layers.*_4d.*", "layers.stem.*"."""

    @model_validator(mode="after")
    def _check(self) -> OptimConfig:
        if self.nesterov and not self.momentum:
            raise ValueError("nesterov needs a momentum above 0")
        return self


Precision = Literal["fp32", "bf16", "fp16"]
Loss = Literal["softmax", "sigmoid"]


class TrainConfig(_Section):
    """The run."""

    global_batch: int = Field(64, ge=1)
    """Videos of a step, on all processes together."""
    micro_batch: int = Field(0, ge=0)
    """Videos that a process takes at a time, at most, to save memory: gradients add up; 0: all of its share."""
    seed: int = Field(0, ge=0, lt=2**32)
    init: str = ""
    """Where weights come from: "imagenet", "imagenet=FILE", a weights file, or the folder of a run; "": nowhere."""
    starts_from: str = ""
    """The recipe whose run init has to name."""
    loss: Loss = "softmax"
    """Cross-entropy with the first label, or the binary ones of all classes with all labels of a video."""
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    """Share of the target that is spread over all classes; 0: none."""
    mixup: float = Field(0.0, ge=0)
    """Mix whole videos, with a share drawn from Beta(mixup, mixup); 0: do not."""
    cutmix: float = Field(0.0, ge=0)
    """Put a box of one video into another, of an area drawn from Beta(cutmix, cutmix); 0: do not."""
    ema: float = Field(0.0, ge=0, lt=1)
    """Decay of a moving average of the weights, which is what is validated and kept; 0: none."""
    sync_norm: bool = False
    """Norms see the videos of all GPUs together."""
    precision: Precision = "fp32"
    channels_last: bool = True
    compile: bool = False
    autotune: bool = False
    """With compile, on a GPU: try more ways to run each kernel. Minutes more at the start, faster steps after."""
    checkpoint_stages: tuple[Literal["stem", "res2", "res3", "res4", "res5"], ...] = ()
    """Stages whose activations are computed again for the gradient and not kept: less memory, more time."""
    checkpoint_every: int = Field(200, ge=1)
    """Steps from one checkpoint of the run to the next."""
    validate_every: int = Field(5, ge=0)
    """Epochs from one validation to the next; 0: only after the last."""
    keep_every: int = Field(0, ge=0)
    """Epochs from one checkpoint that stays to the next; 0: only the last and the best stay."""

    @model_validator(mode="after")
    def _check(self) -> TrainConfig:
        if self.autotune and not self.compile:
            raise ValueError("autotune is of compiled kernels: it needs compile")
        return self

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

    def check_start(self) -> None:
        """Raise UsageError if the recipe goes on from another one's run, and does not say where that is."""
        if self.train.starts_from and not self.train.init:
            raise UsageError(
                f"recipe {self.name} starts from the weights of a run of {self.train.starts_from}: name its folder or "
                "weights file with --init (or begin from nothing with --set train.starts_from='')"
            )


def nearest(name: str, names: list[str]) -> str:
    """What to say after an unknown name: the one of ``names`` that was meant, or nothing."""
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    return f" (did you mean '{close[0]}'?)" if close else ""
