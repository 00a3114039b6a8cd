"""What is exported: pixels of whole videos in, their scores out, in operations that every runtime has.

Shape suffixes: B videos, U action units, M combinations, S sections (U_train), N = B·U, C channels, T frames of a unit,
H, W, K classes.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from preprocess.errors import UsageError
from preprocess.index import VERSION, Dataset
from v4d.inference import Activation
from v4d.models.folding import fold_norms
from v4d.neighbourhoods import combinations
from v4d.trained import Trained

FORMAT = 1
INPUT, OUTPUT, BATCH = "video", "scores", "batch"
# Each is computed whole, above the first block that relates units: 20 units for 4 sections, which make 625, would take
# 2,500 units' memory for each video.
_MOST_COMBINATIONS = 128
# For people; v4d's own is pipelines.sampling.centred_units.
_SAMPLING_RULE = (
    "The video is cut into as many equal sections as there are units. The middle of a unit, whose span is "
    "(frames - 1) * stride + 1, is the middle of its section: it starts at "
    "floor((unit + 0.5) * video_frames / units - span / 2 + 0.5), unit from 0. Indices before the video or behind it "
    "are those of its first or last frame. With fit_stride the stride is at most "
    "(video_frames // units_in_training - 1) // (frames - 1), and at least 1."
)
# For people; v4d's own is preprocess.ffmpeg.
_FRAMES_RULE = (
    "Upright, before all else. resize WxH: every picture is stretched to it, whatever its shape; short:N: the shorter "
    "side becomes N, the longer one keeps the ratio; none: as it is. fps: so many frames of each second; null: all."
)


class ServedNetwork(nn.Module):
    """A network for test with its norms folded in: the scores of videos, by Algorithm 1 where there are more units.

    With as many units as in training there is one combination. With more, what lies below the first block that relates
    units is computed once for each unit and the rest for every combination, as the paper writes it; the scores are
    those of ``video_scores`` but for rounding.
    """

    combinations_MS: Tensor | None

    def __init__(self, trained: Trained, units_infer: int, activation: Activation) -> None:
        """Raises UsageError if there are fewer units than sections, or more than 128 combinations."""
        super().__init__()
        self.network = fold_norms(trained.model).float()
        self.activation = activation
        self.units_train = trained.recipe.data.units
        every_MS = combinations(units_infer, self.units_train)
        if len(every_MS) > _MOST_COMBINATIONS:
            raise UsageError(
                f"--u-infer {units_infer} with {self.units_train} units in training makes {len(every_MS):,} "
                f"combinations, more than the {_MOST_COMBINATIONS} that a program holds: use fewer units"
            )
        self.register_buffer("combinations_MS", torch.from_numpy(every_MS) if len(every_MS) > 1 else None)
        self.eval()

    def forward(self, x_BUTHWC: Tensor) -> Tensor:
        """Scores, (B, K) float32, of pixels, (B, U, T, H, W, 3) uint8: red, green and blue, 0 to 255."""
        x_NCTHW = x_BUTHWC.flatten(0, 1).permute(0, 4, 1, 2, 3)
        if self.combinations_MS is None:
            return self._scores(self.network(x_NCTHW, self.units_train))
        below_NCTHW = self.network.forward_below(x_NCTHW)
        below_BUTHWC = below_NCTHW.permute(0, 2, 3, 4, 1).unflatten(0, (-1, x_BUTHWC.shape[1]))
        taken_NTHWC = below_BUTHWC[:, self.combinations_MS.flatten()].flatten(0, 1)
        above_NCTHW = self.network.forward_above(taken_NTHWC.permute(0, 4, 1, 2, 3), self.units_train)
        logits_NK = self.network.forward_head(above_NCTHW, self.units_train)
        scores_BK: Tensor = self._scores(logits_NK).unflatten(0, (-1, len(self.combinations_MS))).mean(dim=1)
        return scores_BK

    def _scores(self, logits_NK: Tensor) -> Tensor:
        if self.activation == "softmax":
            return logits_NK.softmax(dim=-1)
        return logits_NK.sigmoid() if self.activation == "sigmoid" else logits_NK


def input_shape(trained: Trained, units_infer: int) -> tuple[int, ...]:
    """Of one video: (U, T, H, W, 3)."""
    data = trained.recipe.data
    return units_infer, data.frames, data.test_crop, data.test_crop, 3


def description(
    trained: Trained, units_infer: int, activation: Activation, dataset: Dataset | None = None
) -> dict[str, Any]:
    """What a server has to know, in JSON's types: what to take of a video, how, and what comes out.

    ``dataset`` says how the frames were made that the network was trained on; None: nobody knows.
    """
    data, model = trained.recipe.data, trained.model
    frames = {name: dataset.options[name] for name in ("resize", "fps")} if dataset else None
    return {
        "format": FORMAT,
        "v4d": VERSION,
        "source": trained.about,
        "input": {
            "name": INPUT,
            "type": "uint8",
            "layout": "batch, units, frames, height, width, colours",
            "shape": [BATCH, *input_shape(trained, units_infer)],
            "colours": "RGB",
            "range": [0, 255],
        },
        "output": {"name": OUTPUT, "type": "float32", "shape": [BATCH, model.num_classes], "scores": activation},
        "frames": frames and {**frames, "rule": _FRAMES_RULE},
        "sampling": {
            "over": data.over,
            "units": units_infer,
            "units_in_training": data.units,
            "frames": data.frames,
            "stride": data.stride,
            "fit_stride": data.fit_stride,
            "rule": _SAMPLING_RULE,
        },
        "crop": {
            "side": data.test_crop,
            "rule": "A square of the frame's short side, resized to side by side: the middle one, or the scores' mean "
            "over three along the longer side (both ends and the middle).",
        },
        "normalisation": {
            "inside": True,
            "mean": list(model.config.mean),
            "std": list(model.config.std),
        },
        "classes": list(trained.classes),
    }
