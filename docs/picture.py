"""Draws the README's picture, light and dark: the data path, and the 4D block. ``make pictures`` writes the files.

python docs/picture.py
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from html import escape
from pathlib import Path

from pipelines.sampling import centred_units
from v4d.models.registry import registered

FOLDER = Path(__file__).parent / "pictures"
WIDTH, HEIGHT = 960, 456
THEMES: Mapping[str, Mapping[str, str]] = {
    "light": {"ink": "#1f2328", "soft": "#59636e", "line": "#c4cbd2", "frame": "#d8dee4", "box": "#f3f5f7"}
    | {"used": "#0969da", "kernel": "#bc4c00", "paper": "#ffffff"},
    "dark": {"ink": "#e6edf3", "soft": "#9198a1", "line": "#4a525c", "frame": "#30363d", "box": "#161b22"}
    | {"used": "#4493f8", "kernel": "#f0883e", "paper": "#0d1117"},
}
_ALT = (
    "Videos are encoded once into shards of packets, of which DALI reads and decodes those that a step uses; "
    "a 4D block relates the action units of a video to each other."
)
# A clip of 10 seconds at 30 frames/s.
_FRAMES = 300
_LEFT = 24.0


def picture(theme: str) -> str:
    """The SVG in one of ``THEMES``."""
    colours = THEMES[theme]
    parts = [*_data_path(), *_network(), *_block()]
    body = "\n".join(parts)
    for name, colour in colours.items():
        body = body.replace(f"@{name}", colour)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{_ALT}" '
        f'font-family="system-ui, -apple-system, Segoe UI, Helvetica, Arial, sans-serif" font-size="13">\n'
        f'<rect width="{WIDTH}" height="{HEIGHT}" rx="10" fill="{colours["paper"]}"/>\n{body}\n</svg>\n'
    )


def _text(x: float, y: float, said: str, colour: str = "ink", more: str = "") -> str:
    return f'<text x="{x:g}" y="{y:g}" fill="@{colour}" {more}>{escape(said)}</text>'


def _rect(x: float, y: float, width: float, height: float, fill: str, more: str = "") -> str:
    return f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" fill="@{fill}" {more}/>'


def _box(x: float, y: float, width: float, title: str, *lines: str) -> Iterator[str]:
    yield _rect(x, y, width, 34 + 17 * len(lines), "box", 'rx="7" stroke="@line"')
    yield _text(x + 12, y + 22, title, more='font-weight="600"')
    for number, line in enumerate(lines):
        yield _text(x + 12, y + 41 + 17 * number, line, "soft")


def _arrow(x: float, y: float, to_x: float, to_y: float) -> str:
    head = f"M{to_x:g} {to_y:g}l-6 -4v8z" if y == to_y else f"M{to_x:g} {to_y:g}l-4 -6h8z"
    return f'<path d="M{x:g} {y:g}L{to_x:g} {to_y:g}" stroke="@soft" fill="none"/><path d="{head}" fill="@soft"/>'


def _data_path() -> Iterator[str]:
    """What is kept of a video, and the frames of it that a test of ``v4d_resnet18`` takes."""
    yield from _box(_LEFT, 22, 170, "Videos", "a folder per class,", "or a dataset's lists")
    yield _arrow(_LEFT + 170, 63, _LEFT + 206, 63)
    yield from _box(230, 22, 216, "Shards, made once", "a packet for each frame, and", "an index of where each lies")
    yield _arrow(446, 63, 482, 63)
    yield from _box(482, 22, 216, "DALI", "reads and decodes only", "what is used, on GPU or CPU")
    yield _arrow(698, 63, 734, 63)
    yield from _box(734, 22, 202, "Action units", "in the memory layout that", "the network computes in")

    data = registered("v4d_resnet18").data
    used = centred_units(_FRAMES, data.units, data.frames, data.stride)
    step, top = (WIDTH - 2 * _LEFT) / _FRAMES, 128
    frames = used.ravel().tolist()
    said = f"one video, {_FRAMES} frames: {data.units} units of {data.frames} frames are used, {len(frames)} in all"
    for frame in range(_FRAMES):
        is_used = frame in frames
        height = 26 if is_used else 14
        yield _rect(_LEFT + frame * step, top + 26 - height, step - 0.7, height, "used" if is_used else "frame")
    section = (WIDTH - 2 * _LEFT) / data.units
    for unit in range(data.units):
        x = _LEFT + unit * section
        bracket = f"M{x + 2:g} {top + 32}v5H{x + section - 4:g}v-5"
        yield f'<path d="{bracket}" fill="none" stroke="@line"/>'
        yield _text(x + section / 2, top + 52, f"section {unit + 1}", "soft", 'text-anchor="middle"')
    yield _text(_LEFT, top + 76, said, "soft")


def _network() -> Iterator[str]:
    """The stages of V4D ResNet-18, with its 4D blocks where the registry has them."""
    yield _text(_LEFT, 244, "V4D ResNet-18", more='font-size="15" font-weight="600"')
    yield _text(_LEFT, 264, "3D convolutions see one unit at a time,", "soft")
    yield _text(_LEFT, 281, "4D blocks all units of the video.", "soft")
    after = {place.partition(".")[0] for place in registered("v4d_resnet18").model.blocks_4d}
    x, y = _LEFT, 326
    for stage in ("stem", "res2", "res3", "res4", "res5", "mean"):
        yield _rect(x, y, 48, 54, "box", 'rx="6" stroke="@line"')
        yield _text(x + 24, y + 31, stage, more='text-anchor="middle"')
        x += 48
        if stage in after:
            yield _arrow(x, y + 27, x + 14, y + 27)
            yield _rect(x + 14, y, 34, 54, "kernel", 'rx="6"')
            yield _text(x + 31, y + 31, "4D", "paper", 'text-anchor="middle" font-weight="700"')
            x += 48
        if stage != "mean":
            yield _arrow(x, y + 27, x + 14, y + 27)
            x += 14
    yield _text(_LEFT, 410, "scores of the video: the mean over its units; in test over", "soft")
    yield _text(_LEFT, 427, "combinations of more units than in training (Algorithm 1)", "soft")


def _block() -> Iterator[str]:
    """A 4D block: the kernel over units and frames on a video's features, each a map of H by W places."""
    data, kernel = registered("v4d_resnet18").data, registered("v4d_resnet18").model.kernel_4d
    left, top, pitch_x, pitch_y, side = 618.0, 268.0, 40, 36, 28
    yield _text(left - 66, 244, "4D block: Y = ReLU(X + BN(conv4d(X)))", more='font-size="15" font-weight="600"')
    for unit in range(data.units):
        y = top + unit * pitch_y
        yield _text(left - 66, y + 19, f"unit {unit + 1}", "soft")
        for frame in range(data.frames):
            covered = unit < kernel[0] and frame < kernel[1]
            x = left + frame * pitch_x
            for behind in (4, 0):
                fill = "used" if covered else "frame"
                more = f'rx="3" stroke="@paper" fill-opacity="{1 if not covered or not behind else 0.55}"'
                yield _rect(x + behind, y - behind, side, side, fill, more)
    middle_x, middle_y = left + kernel[1] // 2 * pitch_x, top + kernel[0] // 2 * pitch_y
    yield _rect(middle_x, middle_y, side, side, "kernel", 'rx="3" stroke="@paper"')
    outline = (left - 5, top - 9, kernel[1] * pitch_x - pitch_x + side + 14, kernel[0] * pitch_y - pitch_y + side + 14)
    more = 'rx="7" stroke="@kernel" stroke-width="2" fill-opacity="0"'
    yield _rect(*outline, "paper", more)
    for frame in range(data.frames):
        x = left + frame * pitch_x + side / 2
        yield _text(x, top + data.units * pitch_y + 8, f"t{frame + 1}", "soft", 'text-anchor="middle"')
    x = left + data.frames * pitch_x + 18
    lines = (
        f"a {'×'.join(map(str, kernel))} kernel:",  # noqa: RUF001
        "a place learns from",
        "the frames beside it",
        "and from the same",
        "time of other units",
    )
    for number, line in enumerate(lines):
        yield _text(x, top + 20 + 18 * number, line, "kernel" if not number else "soft")


def main() -> None:
    """Write a file for each theme."""
    FOLDER.mkdir(exist_ok=True)
    for theme in THEMES:
        (FOLDER / f"v4d-{theme}.svg").write_text(picture(theme))


if __name__ == "__main__":
    main()
