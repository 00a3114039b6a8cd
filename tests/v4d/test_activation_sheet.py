"""The sheet of activation maps and the overlay clip: one scale for a row, colours that all can tell, text that fits."""

import numpy as np
import pytest

from v4d import captions
from v4d.activation_sheet import MapRow, activation_sheet, coloured, overlay_clip

NAMES = ("fight", "", "漢" * 300, "e\u0301 <b>&amp; \"'\n\x00 \ud800 ß 😀" * 40, "a" * 4000)


def black(units=2, frames=2, side=32):
    return np.zeros((units, frames, side, side, 3), np.uint8)


def row(map_UTHW, name="fight"):
    return MapRow("runs/a", name, 0.75, map_UTHW.astype(np.float32))


def test_the_colours_get_evenly_lighter():
    """CIE L* of sRGB (IEC 61966-2-1), from black to nearly white: grey for who sees no colour is as good."""
    linear = coloured(np.linspace(0, 1, 33)) / 255
    linear = np.where(linear <= 0.04045, linear / 12.92, ((linear + 0.055) / 1.055) ** 2.4)
    luminance = linear @ [0.2126, 0.7152, 0.0722]
    lightness = np.where(luminance > 216 / 24389, 116 * np.cbrt(luminance) - 16, luminance * 24389 / 27)
    steps = np.diff(lightness)
    assert lightness[0] < 2 and lightness[-1] > 95
    assert steps.min() > 1.5 and steps.max() < 4.5


def test_a_row_has_one_scale_over_all_of_its_units():
    """Units of constant maps: the darkest and the brightest colour stand for the lowest and the highest of the row."""
    values = np.array([[-2.0, 0.0], [1.0, 2.0]])
    shown = overlay_clip(black(), [row(np.broadcast_to(values[..., None, None], (2, 2, 3, 3)))])
    centres = shown[:, 150, -100].astype(np.float32)
    wanted = 0.6 * coloured((values.ravel() + 2) / 4)
    np.testing.assert_allclose(centres, wanted, atol=0.51)


def test_a_map_lies_where_it_belongs():
    """Brightest in the lower left corner of unit 2's first frame; on the sheet and in the clip."""
    one = np.zeros((2, 2, 4, 4))
    one[1, 0, 3, 0] = 1
    clip = overlay_clip(black(), [row(one)])
    panel = clip[:, -224:, -224:].astype(int).sum(axis=-1)
    assert np.unravel_index(panel.argmax(), panel.shape)[0] == 2
    assert panel[2, -1, 0] == panel.max() and panel[2, 0, -1] == panel.min() == panel[0].max()
    sheet = activation_sheet(black(), [row(one)], "")
    bright = np.argwhere((sheet == clip[2, -1, -224]).all(axis=-1))
    # The second unit begins behind a margin, two tiles and a gap.
    left = 12 + 2 * 112 + 8
    assert bright[:, 1].min() == left and bright[:, 1].max() < left + 112 // 4


def test_negative_and_constant_maps_are_drawn():
    for values in (np.full((2, 2, 3, 3), -1.5), np.linspace(-9, -3, 36).reshape(2, 2, 3, 3)):
        assert np.isfinite(activation_sheet(black(), [row(values)], "x")).all()
        assert overlay_clip(black(), [row(values)]).dtype == np.uint8


def test_units_that_are_too_many_stand_below_each_other():
    def size(units, frames):
        return activation_sheet(black(units, frames), [row(np.zeros((units, frames, 1, 1)))], "x").shape[:2]

    (height, width), (higher, as_wide) = size(4, 4), size(8, 4)
    assert as_wide == width
    assert height < higher < 2 * height
    assert size(5, 4)[1] < width
    assert size(1, 64) == size(1, 8)


@pytest.mark.parametrize("name", NAMES, ids=range(len(NAMES)))
def test_text_stays_inside(name, monkeypatch):
    """Nothing is written over the margins, and all that was asked for is there: with the fonts there are and without.

    Of a caption something is always left to read.
    """
    for fonts in (captions._OTHER_FONTS, ()):
        monkeypatch.setattr(captions, "_OTHER_FONTS", fonts)
        captions._fonts.cache_clear()
        captions._font_of.cache_clear()
        for most in (40, 200, 1e6):
            shown = captions._fitted(name, 14, most)
            assert captions._width(shown, 14) <= most
            assert bool(shown) is bool(name)
        rows = [MapRow(name, name, 0.5, np.zeros((2, 2, 3, 3), np.float32))]
        sheet = activation_sheet(black(), rows, name)
        assert (sheet[:, -4:] == sheet[0, 0]).all() and (sheet[:, :4] == sheet[0, 0]).all()
        assert overlay_clip(black(), rows).shape == (4, 44 + 224, 456, 3)


def test_what_has_no_glyph_is_written_as_python_does(monkeypatch):
    monkeypatch.setattr(captions, "_OTHER_FONTS", ())
    captions._fonts.cache_clear()
    captions._font_of.cache_clear()
    assert "".join(captions._fitted("a漢\n<", 14, 1e6)) == r"a\u6f22\n<"
    assert "".join(captions._fitted("x" * 99, 14, 60)).count("...") == 1
    captions._fonts.cache_clear()
    captions._font_of.cache_clear()


def test_maps_of_other_units_are_refused():
    for draw in (overlay_clip, lambda frames, rows: activation_sheet(frames, rows, "")):
        with pytest.raises(ValueError, match="a map of"):
            draw(black(), [row(np.zeros((3, 2, 4, 4)))])
