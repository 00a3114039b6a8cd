"""Renders the demo's videos: the same four sub-actions in every video, a class is the order they come in.

Each quarter of a video shows one sub-action: a disc of one colour that moves one way, over a textured background
that drifts. Background, drift, place and speed are drawn anew for each video, and the background's phase too, so
that an action unit inside a quarter, as in training, says which sub-action it shows but neither where in the video it
lies nor, thereby, anything about the class. Only what relates units to each other can tell the classes apart.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np

from preprocess.clip_file import write_clip
from preprocess.datasets.folder import list_folder
from preprocess.records import Listing

SIZE = 48
FRAMES = 128
FPS = 25
# Six of the 24 orders; each sub-action comes first, and last, in some class.
ORDERS = ((0, 1, 2, 3), (0, 3, 2, 1), (1, 0, 3, 2), (2, 3, 0, 1), (3, 2, 1, 0), (2, 1, 3, 0))
_NAMES = ("right", "left", "up", "down")
_COLOURS = np.array([[230, 60, 50], [60, 200, 70], [70, 90, 240], [240, 210, 60]], np.float32)
_DIRECTIONS = np.array([[0, 1], [0, -1], [-1, 0], [1, 0]], np.float32)
_RADIUS = 7.0


def class_names() -> list[str]:
    """The classes, each named for its order, as in ``right-left-up-down``."""
    return ["-".join(_NAMES[action] for action in order) for order in ORDERS]


def render(root: Path, per_class: dict[str, int], seed: int, workers: int, on_video: Callable[[], None]) -> None:
    """Write ``per_class[split]`` videos of each class as root/SPLIT/CLASS/NNNN.mp4. Those already there are kept.

    A video is a function of (seed, split, class, number). Raises DataError if ffmpeg cannot write one.
    """
    wanted = [
        (root / split / name / f"{i:04d}.mp4", order, (seed, split_number, label, i))
        for split_number, (split, count) in enumerate(per_class.items())
        for label, (name, order) in enumerate(zip(class_names(), ORDERS, strict=True))
        for i in range(count)
    ]

    def write(path: Path, order: tuple[int, ...], draw_from: tuple[int, ...]) -> None:
        if not path.exists():
            write_clip(path, draw_frames(order, np.random.default_rng(draw_from)), FPS)
        on_video()

    with ThreadPoolExecutor(workers) as executor:
        writing = [executor.submit(write, *one) for one in wanted]
        try:
            for written in writing:
                written.result()
        finally:
            executor.shutdown(wait=False, cancel_futures=True)


def list_videos(root: Path) -> Listing:
    """The videos that ``render`` wrote, as a dataset of a kind of its own, for which there is a recipe."""
    return replace(list_folder(root, val_fraction=0), kind="ordered-actions")


def draw_frames(order: tuple[int, ...], draws: np.random.Generator) -> np.ndarray:
    """The frames of one video, (FRAMES, SIZE, SIZE, 3) uint8 RGB, its sub-actions in ``order``."""
    texture, drift = _texture(draws), draws.uniform(-0.6, 0.6, 2)
    quarter = FRAMES // len(order)
    starts, speeds = draws.uniform(0, SIZE, (len(order), 2)), draws.uniform(0.7, 1.3, (len(order), 1))
    colours = _COLOURS[list(order)] + draws.uniform(-20, 20, (len(order), 3)).astype(np.float32)

    pixel, time = np.arange(SIZE), np.arange(FRAMES)
    # The texture tiles and the picture wraps around, so that a disc never leaves it, wherever it started.
    shift = np.round(drift * time[:, None]).astype(np.int64)
    rows, columns = ((pixel - shift[:, axis, None]) % SIZE for axis in (0, 1))
    frames = texture[rows[:, :, None], columns[:, None, :]]
    place = time // quarter
    centre = starts[place] + _DIRECTIONS[list(order)][place] * speeds[place] * (time % quarter)[:, None]
    down, right = ((pixel - centre[:, axis, None] + SIZE / 2) % SIZE - SIZE / 2 for axis in (0, 1))
    distance = np.sqrt(down[:, :, None] ** 2 + right[:, None, :] ** 2)
    inside = np.clip(_RADIUS + 0.5 - distance, 0, 1).astype(np.float32)[..., None]
    frames += inside * (colours[place][:, None, None, :] - frames)
    pictures: np.ndarray = np.clip(frames, 0, 255).round().astype(np.uint8)
    return pictures


def _texture(draws: np.random.Generator) -> np.ndarray:
    """A background that tiles: grey waves of random directions, slightly tinted, (SIZE, SIZE, 3) float."""
    y, x = np.meshgrid(np.arange(SIZE), np.arange(SIZE), indexing="ij")
    waves = np.zeros((SIZE, SIZE, 3))
    for _ in range(6):
        cycles_y, cycles_x = draws.integers(-5, 6, 2)
        wave = np.sin(2 * np.pi * (cycles_y * y + cycles_x * x) / SIZE + draws.uniform(0, 2 * np.pi))
        waves += wave[..., None] * draws.uniform(5, 15, 3)
    return (draws.uniform(90, 150, 3) + waves).astype(np.float32)
