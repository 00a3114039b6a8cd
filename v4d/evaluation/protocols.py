"""Protocols of test: what is taken of a video, in which order the network sees it, and how its scores become one.

Shape suffixes: B videos, U units of a video, G groups of units, N = B·U, C channels, T frames of a unit, H, W, K
classes.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from pipelines import Sampling
from pipelines.randomness import Purpose, raw
from preprocess.errors import UsageError
from v4d.config import DataConfig
from v4d.evaluation.window_integration import WINDOWS
from v4d.inference import ACTIVATIONS, Activation, video_scores
from v4d.models.network import V4D
from v4d.neighbourhoods import combination_count

# Of an untrimmed video at a time: about as many as Algorithm 1 takes of a trimmed one.
_CHUNK_UNITS = 8

Kind = Literal["v4d", "tsn", "dense", "untrimmed"]
Reverse = Literal["frames", "units", "both"]


@dataclass(frozen=True)
class Protocol:
    """How a video is tested.

    ``kind`` is "v4d", Algorithm 1 of the paper over ``units_infer`` units; "tsn", each of these units alone through the
    network, and the mean of their logits (the consensus of Wang et al., ECCV 2016, which comes before the softmax); or
    "dense", the mean of the scores of ``clips`` clips at even distances, each of as many units as in training, one
    behind the other: of a network of one unit, what I3D is tested with. "untrimmed" takes ``units_per_second`` units
    of all of a video, and integrates the scores of as many in a row as in training over windows of time (see
    ``v4d.evaluation.untrimmed``).

    ``crops`` are 1 (the centre), 3 along the longer side, or 10: corners and centre, mirrored too. ``reverse`` turns
    the order of the frames of each unit, of the units, or both; ``shuffle`` draws an order of the units for each video
    from its key and ``shuffle_seed``. In "dense" the units are those of each clip.
    """

    kind: Kind = "v4d"
    units_infer: int = 10
    clips: int = 10
    crops: Literal[1, 3, 10] = 3
    reverse: Reverse | None = None
    shuffle: Literal["units"] | None = None
    shuffle_seed: int = 0
    units_per_second: float = 1.0

    def check(self, data: DataConfig) -> None:
        """Raise UsageError if a network that was trained with ``data`` cannot be tested so."""
        if self.kind == "v4d":
            combination_count(self.units_infer, data.units)
        if self.shuffle and self.reverse in ("units", "both"):
            raise UsageError(f"--shuffle units leaves nothing of --reverse {self.reverse}: use one of them")
        if self.kind == "untrimmed" and (self.shuffle or self.reverse):
            raise UsageError("--protocol untrimmed keeps the order of time: leave out --reverse and --shuffle")

    @property
    def name(self) -> str:
        """What a folder of its results is called: "u10" of Algorithm 1 with three crops."""
        taken = {"v4d": f"u{self.units_infer}", "tsn": f"tsn-u{self.units_infer}", "dense": f"dense-c{self.clips}"}
        taken["untrimmed"] = f"untrimmed-{self.units_per_second:g}"
        parts = [taken[self.kind]]
        if self.crops != 3:
            parts.append(f"crops{self.crops}")
        if self.reverse:
            parts.append(f"reverse-{self.reverse}")
        if self.shuffle:
            parts.append(f"shuffle-{self.shuffle}" + (f"-{self.shuffle_seed}" if self.shuffle_seed else ""))
        return "-".join(parts)

    def __str__(self) -> str:
        taken = f"{self.clips} clips" if self.kind == "dense" else f"U_infer {self.units_infer}"
        if self.kind == "untrimmed":
            taken = f"{self.units_per_second:g} units per second"
        said = [f"protocol {self.kind}", taken, f"{self.crops} crop{'s' * (self.crops > 1)}"]
        said += [f"{self.reverse} reversed"] * bool(self.reverse) + [f"{self.shuffle} shuffled"] * bool(self.shuffle)
        return ", ".join(said)

    @property
    def places(self) -> Literal[1, 3, 5]:
        """How many crops are cut: of ten, half are others mirrored."""
        return 5 if self.crops == 10 else self.crops

    @property
    def mirrors(self) -> bool:
        """Whether each crop is seen mirrored too."""
        return self.crops == 10

    def about(self, crops_cut: int) -> dict[str, Any]:
        """In JSON's types, given how many different crops there are: of square frames three are one."""
        of_kind: dict[str, Any] = {"clips": self.clips} if self.kind == "dense" else {"u_infer": self.units_infer}
        if self.kind == "untrimmed":
            of_kind = {"units_per_second": self.units_per_second, "windows": WINDOWS}
        shuffle = {"shuffle": self.shuffle, **({"shuffle_seed": self.shuffle_seed} if self.shuffle else {})}
        crops = crops_cut * (2 if self.mirrors else 1)
        return {"protocol": self.kind, **of_kind, "crops": crops, "reverse": self.reverse, **shuffle}

    def sampling(self, data: DataConfig) -> Sampling:
        """What is taken of each video, of an untrimmed one at a time."""
        if self.kind == "untrimmed":
            return replace(data.test_sampling(data.units), units=_CHUNK_UNITS, over="video")
        if self.kind == "dense":
            return replace(data.test_sampling(self.clips * data.units), clips=self.clips)
        return data.test_sampling(self.units_infer)

    def in_order(self, x_NCTHW: Tensor, keys: Sequence[str], units_train: int) -> Tensor:
        """The units of the videos ``keys`` in the order in which the network is to see them."""
        if self.reverse in ("frames", "both"):
            x_NCTHW = x_NCTHW.flip(2)
        if self.reverse in ("units", "both") or self.shuffle:
            units = units_train if self.kind == "dense" else self.units_infer
            x_BGUCTHW = x_NCTHW.unflatten(0, (len(keys), -1, units))
            if self.shuffle:
                x_BGUCTHW = torch.stack(
                    [x[:, _shuffled(key, self.shuffle_seed, units)] for x, key in zip(x_BGUCTHW, keys, strict=True)]
                )
            else:
                x_BGUCTHW = x_BGUCTHW.flip(2)
            x_NCTHW = x_BGUCTHW.flatten(0, 2)
        return x_NCTHW

    def scores(self, model: V4D, x_NCTHW: Tensor, units_train: int, activation: Activation) -> Tensor:
        """The scores of trimmed videos in one crop each, (B, K) float32. The model must be in eval mode."""
        if self.kind == "v4d":
            return video_scores(model, x_NCTHW, self.units_infer, units_train, activation=activation)
        if self.kind == "tsn":
            # Algorithm 1 with a single section: its combinations are the units.
            logits_BK = video_scores(model, x_NCTHW, self.units_infer, 1, activation="logits")
            return ACTIVATIONS[activation](logits_BK)
        scores_GK = video_scores(model, x_NCTHW, units_train, units_train, activation=activation)
        scores_BK: Tensor = scores_GK.unflatten(0, (-1, self.clips)).mean(dim=1)
        return scores_BK


def _shuffled(key: str, seed: int, units: int) -> list[int]:
    """An order of ``units`` that depends on the video's key and the seed alone."""
    order: list[int] = np.argsort(
        raw(seed, Purpose.SHUFFLE, 0, zlib.crc32(key.encode()), units), kind="stable"
    ).tolist()
    return order
