"""Text on pictures: any characters, on one line, cut to the width there is."""

from __future__ import annotations

from functools import lru_cache
from itertools import groupby

from PIL import ImageDraw, ImageFont

# Pillow's own font has the letters of English alone. Of these, where the system has them, the first one that knows a
# character is taken; one that none knows is shown as Python writes it.
_OTHER_FONTS = (
    "DejaVuSans.ttf",
    "NotoSans-Regular.ttf",
    "LiberationSans-Regular.ttf",
    "NotoSansCJK-Regular.ttc",
    "NotoSansCJKsc-Regular.otf",
    "wqy-zenhei.ttc",
    "DroidSansFallbackFull.ttf",
    "unifont.otf",
    "Arial Unicode.ttf",
)
_ELLIPSIS = "..."
# Private, and in no font.
_UNKNOWN = "\U0010fffe"


def draw_caption(
    draw: ImageDraw.ImageDraw, at: tuple[float, float], text: str, size: int, most: float, fill: str = "white"
) -> None:
    """Write ``text`` with its upper left corner ``at`` (x, y), no wider than ``most`` pixels: else its middle goes.

    ``size`` is the font's, in pixels; a line takes about 1.3 of it.
    """
    x = at[0]
    for part, font in _parts(_fitted(text, size, most), size):
        draw.text((x, at[1] + size), part, fill=fill, font=font, anchor="ls")
        x += font.getlength(part)


def caption_width(text: str, size: int) -> float:
    """How many pixels wide ``draw_caption`` writes a text for which there is room."""
    return _width(_shown(text, size), size)


def _fitted(text: str, size: int, most: float) -> list[str]:
    """What is shown of a text: all, or as much of its beginning and its end as there is room for, or nothing."""
    shown = _shown(text, size)
    if _width(shown, size) <= most:
        return shown
    fits, too_many = -1, len(shown)
    while too_many - fits > 1:
        kept = (fits + too_many) // 2
        if _width(_without_middle(shown, kept), size) <= most:
            fits = kept
        else:
            too_many = kept
    return _without_middle(shown, fits) if fits >= 0 else []


def _without_middle(shown: list[str], kept: int) -> list[str]:
    return [*shown[: kept - kept // 2], _ELLIPSIS, *shown[len(shown) - kept // 2 :]]


def _shown(text: str, size: int) -> list[str]:
    """The characters of a text; one that has no glyph, or would begin a new line, as Python writes it."""
    return [
        char if char.isprintable() and _font_of(char, size) is not None else ascii(char)[1:-1]
        for char in text.encode(errors="backslashreplace").decode()
    ]


def _width(shown: list[str], size: int) -> float:
    return sum(font.getlength(part) for part, font in _parts(shown, size))


def _parts(shown: list[str], size: int) -> list[tuple[str, ImageFont.FreeTypeFont]]:
    """The text in parts of one font each."""
    fonts = _fonts(size)
    return [
        ("".join(chars), fonts[number])
        for number, chars in groupby(shown, lambda char: (_font_of(char, size) or 0) if len(char) == 1 else 0)
    ]


@lru_cache(maxsize=4096)
def _font_of(char: str, size: int) -> int | None:
    """The number of the first font that knows a character."""
    for number, font in enumerate(_fonts(size)):
        glyph, unknown = font.getmask(char), font.getmask(_UNKNOWN)
        if (glyph.size, bytes(glyph)) != (unknown.size, bytes(unknown)):
            return number
    return None


@lru_cache
def _fonts(size: int) -> list[ImageFont.FreeTypeFont]:
    first = ImageFont.load_default(size)
    assert isinstance(first, ImageFont.FreeTypeFont)
    fonts = [first]
    for name in _OTHER_FONTS:
        try:
            fonts.append(ImageFont.truetype(name, size))
        except OSError:
            continue
    return fonts
