"""Class activation maps of a video file: the sheet and the clip that ``v4d cam`` writes.

Shape suffixes: N = U action units of one video, T frames of a unit, H, W, C channels or colours.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from pipelines.file_loader import FileLoader
from preprocess.clip_file import write_clip
from preprocess.durable_files import replace_atomically
from preprocess.errors import DataError, UsageError
from preprocess.index import VERSION, Dataset
from v4d.activation_maps import activation_maps
from v4d.activation_sheet import MapRow, activation_sheet, overlay_clip
from v4d.config import nearest
from v4d.trained import Trained

CLIP_FPS = 4


@dataclass(frozen=True, eq=False)
class VideoMaps:
    """What networks saw of a video, ``frames_UTHWC`` uint8 RGB, and the maps of each of them for one class."""

    video: Path
    frames_UTHWC: np.ndarray
    rows: tuple[MapRow, ...]
    about: dict[str, Any]

    def write_sheet(self, path: Path) -> None:
        """Write the sheet as PNG, with what made it in its text ``v4d``. Raises OSError."""
        text = PngInfo()
        text.add_text("v4d", json.dumps(self.about))
        sheet = activation_sheet(self.frames_UTHWC, self.rows, str(self.video))
        with replace_atomically(path) as temporary:
            Image.fromarray(sheet).save(temporary, format="PNG", pnginfo=text)

    def write_clip(self, path: Path) -> None:
        """Write the overlay clip as MP4, 4 frames a second. Raises as ``preprocess.clip_file.write_clip`` does."""
        write_clip(path, overlay_clip(self.frames_UTHWC, self.rows), CLIP_FPS)


def video_maps(
    trained: Trained,
    against: Trained | None,
    video: Path,
    dataset: Dataset | None,
    *,
    units: int,
    class_name: str | None,
    device: torch.device,
) -> VideoMaps:
    """The maps of ``trained`` for a class, by default its top one, and above them those of ``against``.

    Both see the centre crop of ``units`` centred units, sampled and made as for ``trained``. Classes go by name.

    Raises UsageError if a network has no such class, and what ``FileLoader`` raises for a file that is no video.
    """
    x_NCTHW = _units_of(video, dataset, trained, units, device)
    names = trained.class_names(dataset)
    row, class_name = _mapped(trained, x_NCTHW, units, names, class_name)
    rows = [row]
    if against:
        # Nameless classes are the same by number, as far as anybody knows.
        others = against.classes or (names if against.model.num_classes == len(names) else against.class_names(None))
        rows.insert(0, _mapped(against, x_NCTHW, units, others, class_name)[0])
    about = {"v4d": VERSION, **trained.about, "video": str(video), "units": units, "class": class_name}
    about |= {"against": against.about} if against else {}
    about |= {"dataset": dataset.fingerprint} if dataset else {}
    frames_UTHWC = x_NCTHW.permute(0, 2, 3, 4, 1).cpu().numpy()
    return VideoMaps(video, frames_UTHWC, tuple(rows), about)


def _units_of(video: Path, dataset: Dataset | None, trained: Trained, units: int, device: torch.device) -> Tensor:
    """The centre crop of a video's units, (N, C, T, H, W) uint8."""

    def fail(path: Path, why: DataError) -> None:
        raise why

    take = trained.recipe.data.test_sampling(units)
    (batch,) = FileLoader([video], dataset, take, device=device, on_bad=fail, crops=1)
    return batch.x


def _mapped(
    trained: Trained, x_NCTHW: Tensor, units: int, names: tuple[str, ...], class_name: str | None
) -> tuple[MapRow, str]:
    """A network's maps for a class, and the class's name."""
    wanted = None
    if class_name is not None:
        if class_name not in names:
            raise UsageError(f"{trained.path} knows no class '{class_name}'{nearest(class_name, list(names))}")
        wanted = torch.tensor([names.index(class_name)])
    recipe = trained.recipe
    x_NCTHW = x_NCTHW if recipe.train.channels_last else x_NCTHW.contiguous()
    model = trained.for_test(x_NCTHW.device)
    maps = activation_maps(model, x_NCTHW, units, wanted, precision=recipe.train.precision)
    chosen, logits_K = int(maps.classes_B[0]), maps.logits_BK[0]
    scores_K = logits_K.softmax(dim=0) if recipe.train.loss == "softmax" else logits_K.sigmoid()
    row = MapRow(trained.name, names[chosen], float(scores_K[chosen]), maps.maps_BUTHW[0].numpy())
    return row, names[chosen]
