"""Pictures of 3D class activation maps: a sheet of all frames beside their maps, and the frames of a clip.

Shape suffixes: U action units, T frames of a unit, H, W, C colours, F frames of a clip.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw

from v4d.captions import caption_width, draw_caption

# Every 16th colour of matplotlib's magma (CC0): as much lighter from each to the next, whoever looks at it.
_MAGMA = np.array(
    [
        *[[0x00, 0x00, 0x04], [0x0A, 0x08, 0x22], [0x1D, 0x11, 0x47], [0x36, 0x10, 0x6B], [0x51, 0x12, 0x7C]],
        *[[0x6A, 0x1C, 0x81], [0x83, 0x26, 0x81], [0x9C, 0x2E, 0x7F], [0xB7, 0x37, 0x79], [0xCF, 0x40, 0x70]],
        *[[0xE5, 0x50, 0x64], [0xF4, 0x69, 0x5C], [0xFB, 0x87, 0x61], [0xFE, 0xA5, 0x71], [0xFE, 0xC2, 0x87]],
        *[[0xFD, 0xE0, 0xA1], [0xFC, 0xFD, 0xBF]],
    ],
    np.float32,
)
# More of it, and where a frame is bright could be taken for where its map is.
_FRAME_SHARE = 0.3
_GREY = np.array([0.299, 0.587, 0.114], np.float32)

_TILE, _BETWEEN_FRAMES, _GAP, _MARGIN = 112, 2, 10, 12
_MOST_COLUMNS, _MOST_FRAMES, _NARROWEST = 16, 8, 720
_TITLE, _TEXT, _SMALL = 18, 14, 12
_BAR_WIDTH = 120
_BACKGROUND, _FAINT = "#16161d", "#b8b8c4"
_MEANING = (
    "Colour: what a place adds to the class's score before softmax or sigmoid, bright for the class and dark against "
    "it; the mean over all places is that score less the bias.",
    "Each network has one scale for all of its maps, as its bar says, with 0 in the middle.",
)


@dataclass(frozen=True, eq=False)
class MapRow:
    """The map of one network for one class: ``map_UTHW`` float32, of the size of its last feature maps.

    ``score`` is that of the class, 0 to 1.
    """

    network: str
    class_name: str
    score: float
    map_UTHW: np.ndarray

    @property
    def caption(self) -> str:
        """What is shown above the maps."""
        return f"{self.score:.1%}  {self.class_name}"

    @property
    def scale(self) -> float:
        """The value of the brightest colour, the largest of all units, be it below 0; the darkest is its opposite's.

        So 0 has the same colour in every row, between those of what speaks for the class and of what speaks against it.
        """
        return float(np.abs(self.map_UTHW).max())


class _Band(NamedTuple):
    """Units side by side: their numbers, and the frames shown of each."""

    units: range
    frames: list[int]


def activation_sheet(frames_UTHWC: np.ndarray, rows: Sequence[MapRow], title: str) -> np.ndarray:
    """A sheet of a video's units, a row of frames above a row of each network's maps: (height, width, 3) uint8 RGB.

    ``frames_UTHWC`` uint8 RGB is what the networks saw. Units stand side by side, and below each other where they
    would take more than 16 columns; of each at most 8 frames are shown, evenly over it. The colours of a row's maps
    are on one scale (see ``MapRow.scale``), linear and of all its units (also of frames not shown), and a bar says
    which values these are.

    Raises ValueError if a map has other units or frames than the video.
    """
    _see_that_maps_fit(frames_UTHWC, rows)
    bands = _bands(*frames_UTHWC.shape[:2])
    width = max(_NARROWEST, len(bands[0].units) * _unit_width(bands[0]) - _GAP + 2 * _MARGIN)
    line, row_height = round(_TEXT * 1.6), _TILE + _GAP
    band_height = line + row_height + len(rows) * (line + row_height)
    footer = len(_MEANING) * round(_SMALL * 1.5)
    top = _MARGIN + round(_TITLE * 1.6)
    sheet = Image.new("RGB", (width, top + len(bands) * band_height + footer + _MARGIN), _BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    draw_caption(draw, (_MARGIN, _MARGIN), title, _TITLE, width - 2 * _MARGIN)
    for band in bands:
        _draw_unit_names(draw, band, top)
        top += line
        _paste(sheet, band, top, _tiles(frames_UTHWC, band))
        top += row_height
        for row in rows:
            _draw_row_caption(sheet, draw, row, top, width)
            top += line
            _paste(sheet, band, top, _overlaid(frames_UTHWC, row, band, _TILE))
            top += row_height
    for meaning in _MEANING:
        draw_caption(draw, (_MARGIN, top), meaning, _SMALL, width - 2 * _MARGIN, _FAINT)
        top += round(_SMALL * 1.5)
    return np.asarray(sheet)


def overlay_clip(frames_UTHWC: np.ndarray, rows: Sequence[MapRow]) -> np.ndarray:
    """All frames one after the other, beside them each network's maps laid over them: (F, height, width, 3) uint8 RGB.

    Height and width are even, as video codecs want them. The colours are those of ``activation_sheet``.

    Raises ValueError if a map has other units or frames than the video.
    """
    _see_that_maps_fit(frames_UTHWC, rows)
    units, frames = frames_UTHWC.shape[:2]
    side = 2 * (max(frames_UTHWC.shape[2:4]) // 2)
    panel = max(side, 224)
    line = 2 * round(_TEXT * 0.8)
    head = 2 * line
    every = _Band(range(units), list(range(frames)))
    tiles = [_resized(frames_UTHWC, panel), *(_overlaid(frames_UTHWC, row, every, panel) for row in rows)]
    width = len(tiles) * (panel + _GAP) - _GAP
    clip = np.empty((units * frames, head + panel, width, 3), np.uint8)
    for number in range(units * frames):
        unit, frame = divmod(number, frames)
        picture = Image.new("RGB", (width, head + panel), _BACKGROUND)
        draw = ImageDraw.Draw(picture)
        captions = [(f"unit {unit + 1} of {units}", f"frame {frame + 1} of {frames}")]
        captions += [(row.network, row.caption) for row in rows]
        for place, ((above, below), tile_UTHWC) in enumerate(zip(captions, tiles, strict=True)):
            left = place * (panel + _GAP)
            draw_caption(draw, (left + 2, 1), above, _SMALL, panel - 4, _FAINT)
            draw_caption(draw, (left + 2, line + 1), below, _TEXT, panel - 4)
            picture.paste(Image.fromarray(tile_UTHWC[unit, frame]), (left, head))
        clip[number] = np.asarray(picture)
    return clip


def overlaid_frames(frames_UTHWC: np.ndarray, row: MapRow, frames: Sequence[int], side: int) -> np.ndarray:
    """Some frames of each unit in grey with the map's colours over them: (U, T, side, side, 3) uint8 RGB.

    Raises ValueError if the map has other units or frames than the video.
    """
    _see_that_maps_fit(frames_UTHWC, [row])
    return _overlaid(frames_UTHWC, row, _Band(range(len(frames_UTHWC)), list(frames)), side)


def coloured(values: np.ndarray) -> np.ndarray:
    """The colours of values from 0 to 1, of any shape: (..., 3) float32 RGB, 0 to 255."""
    at = np.clip(values, 0, 1) * (len(_MAGMA) - 1)
    known = np.arange(len(_MAGMA))
    return np.stack([np.interp(at, known, channel) for channel in _MAGMA.T], axis=-1).astype(np.float32)


def _see_that_maps_fit(frames_UTHWC: np.ndarray, rows: Sequence[MapRow]) -> None:
    for row in rows:
        if row.map_UTHW.shape[:2] != frames_UTHWC.shape[:2]:
            units, frames = frames_UTHWC.shape[:2]
            raise ValueError(f"a map of {row.map_UTHW.shape[:2]} units and frames, the video has {(units, frames)}")


def _bands(units: int, frames: int) -> list[_Band]:
    shown = np.linspace(0, frames - 1, min(_MOST_FRAMES, frames)).round().astype(int).tolist()
    most = max(1, _MOST_COLUMNS // len(shown))
    # As many in each, so that the last is no stub.
    most = -(-units // -(-units // most))
    return [_Band(range(first, min(first + most, units)), shown) for first in range(0, units, most)]


def _left(band: _Band, unit: int) -> int:
    return _MARGIN + (unit - band.units.start) * _unit_width(band)


def _unit_width(band: _Band) -> int:
    """From one unit to the next, with the gap between them."""
    return len(band.frames) * (_TILE + _BETWEEN_FRAMES) - _BETWEEN_FRAMES + _GAP


def _draw_unit_names(draw: ImageDraw.ImageDraw, band: _Band, top: int) -> None:
    for unit in band.units:
        draw_caption(draw, (_left(band, unit), top), f"unit {unit + 1}", _TEXT, _unit_width(band) - _GAP, _FAINT)


def _draw_row_caption(sheet: Image.Image, draw: ImageDraw.ImageDraw, row: MapRow, top: int, width: int) -> None:
    """Network, class and score to the left; to the right the scale: its lowest value, the bar, its highest value.

    A tick on the bar is at 0.
    """
    lowest, highest = (f"{value:+.2f}" for value in (-row.scale, row.scale))
    right = width - _MARGIN - round(caption_width(highest, _SMALL))
    draw_caption(draw, (right, top + 2), highest, _SMALL, _BAR_WIDTH, _FAINT)
    left = right - _BAR_WIDTH - 6
    bar = coloured(np.broadcast_to(np.linspace(0, 1, _BAR_WIDTH), (_SMALL, _BAR_WIDTH)))
    grey = np.full_like(bar, 128)
    sheet.paste(Image.fromarray(_blended(grey, bar)), (left, top + 3))
    zero = left + _BAR_WIDTH // 2
    draw.line([(zero, top + 1), (zero, top + 4 + _SMALL)], "white")
    left -= 6 + round(caption_width(lowest, _SMALL))
    draw_caption(draw, (left, top + 2), lowest, _SMALL, _BAR_WIDTH, _FAINT)
    room = left - _GAP - _MARGIN
    named = min(room * 0.5, caption_width(row.network, _TEXT))
    draw_caption(draw, (_MARGIN, top), row.network, _TEXT, named, _FAINT)
    draw_caption(draw, (_MARGIN + named + _GAP, top), row.caption, _TEXT, room - named - _GAP)


def _tiles(frames_UTHWC: np.ndarray, band: _Band) -> np.ndarray:
    return _resized(frames_UTHWC[band.units.start : band.units.stop, band.frames], _TILE)


def _paste(sheet: Image.Image, band: _Band, top: int, tiles_UTHWC: np.ndarray) -> None:
    for unit, of_unit in zip(band.units, tiles_UTHWC, strict=True):
        for number, tile in enumerate(of_unit):
            sheet.paste(Image.fromarray(tile), (_left(band, unit) + number * (_TILE + _BETWEEN_FRAMES), top))


def _overlaid(frames_UTHWC: np.ndarray, row: MapRow, band: _Band, side: int) -> np.ndarray:
    """The band's frames in grey with the map's colours over them, (U, T, side, side, 3) uint8."""
    units = slice(band.units.start, band.units.stop)
    values_UTHW = row.map_UTHW[units, band.frames] / max(2 * row.scale, 1e-12) + 0.5
    values_NCHW = torch.from_numpy(values_UTHW.astype(np.float32))
    large = F.interpolate(values_NCHW, (side, side), mode="bilinear", align_corners=False).numpy()
    grey_UTHW = _resized(frames_UTHWC[units, band.frames], side) @ _GREY
    return _blended(grey_UTHW[..., None], coloured(large))


def _blended(grey: np.ndarray, colours: np.ndarray) -> np.ndarray:
    blended: np.ndarray = (_FRAME_SHARE * grey + (1 - _FRAME_SHARE) * colours).round().astype(np.uint8)
    return blended


def _resized(frames_UTHWC: np.ndarray, side: int) -> np.ndarray:
    """Frames as squares of ``side`` pixels, uint8."""
    if frames_UTHWC.shape[2:4] == (side, side):
        return frames_UTHWC
    frames_NCHW = torch.from_numpy(np.ascontiguousarray(frames_UTHWC)).flatten(0, 1).permute(0, 3, 1, 2)
    small = F.interpolate(frames_NCHW.float(), (side, side), mode="bilinear", antialias=True)
    pixels: np.ndarray = small.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).numpy()
    return pixels.reshape(*frames_UTHWC.shape[:2], side, side, 3)
