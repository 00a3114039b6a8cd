"""Pixels of known colour come out right, from a video to the batch; and a mirrored video is called what it shows."""

from itertools import islice

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from pipelines import EvalLoader, Sampling, TrainLoader
from pipelines.crops import TRAIN_DRAWS, multiscale_crop, three_crops
from pipelines.randomness import Purpose, uniform
from tests.pipelines.synthetic import preprocessed, render

CPU = torch.device("cpu")
# Two rows of three patches of 64×64, whose edges no block of a codec straddles.
PATCHES = [["red", "lime", "blue"], ["white", "gray", "orange"]]
COLOURS = {
    "red": (255, 0, 0),
    "lime": (0, 255, 0),
    "blue": (0, 0, 255),
    "white": (255, 255, 255),
    "gray": (128, 128, 128),
    "orange": (255, 140, 26),
}
SIDE = 64
# Y, Cb and Cr are whole levels. One level off in each, by rounding and by what a quantiser does to a plain patch, is
# 1 + 1.772 in a channel of RGB, at limited range 1.164 + 2.017; VP9 may be off by two levels, near the patches' edges.
# (Seen: 4 for JPEG, 6 for VP9.) With BT.709's matrix the worst patch is 22 off, with the wrong range 20 or 11.
TOLERANCE = {"mjpeg": 5, "vp9": 8}
FRAMES = 12


def picture():
    rows = [np.concatenate([np.full((SIDE, SIDE, 3), COLOURS[name], np.uint8) for name in row], 1) for row in PATCHES]
    return np.concatenate(rows)


@pytest.fixture(scope="module", params=["mjpeg", "vp9"])
def patches(request, tmp_path_factory):
    """Three videos of the patches."""
    from preprocess.datasets.folder import list_folder

    root = tmp_path_factory.mktemp("patches")
    for split in ("train", "val"):
        for number in range(3):
            still = np.repeat(picture()[None], FRAMES, axis=0)
            render(root / "videos" / split / f"class{number}" / f"{number}.mkv", still)
    listing = list_folder(root / "videos", val_fraction=0)
    return preprocessed(listing, root / "shards", f"{3 * SIDE}x{2 * SIDE}", codec=request.param)


# How far from an edge a pixel is its patch's: chroma has half the resolution, a resize reaches two pixels further, and
# VP9's deblocking eight.
REACH = 12


def cut(crop, side):
    """A crop of the picture, (side, side, 3), and which of its pixels are their patch's, (side, side)."""
    whole = torch.from_numpy(picture()).permute(2, 0, 1).float()[None]
    padded = F.pad(whole, [REACH] * 4, mode="replicate")
    same = F.max_pool2d(padded, 2 * REACH + 1, 1) == -F.max_pool2d(-padded, 2 * REACH + 1, 1)
    both = torch.cat([whole, same.all(dim=1, keepdim=True).float()], dim=1)
    there = both[:, :, crop.y : crop.y + crop.height, crop.x : crop.x + crop.width]
    there = F.interpolate(there.flip(3) if crop.flip else there, (side, side), mode="nearest")[0].permute(1, 2, 0)
    return there[..., :3], there[..., 3].bool()


def worst(pictures_NHWC, crop, side):
    wanted, inside = cut(crop, side)
    assert inside.float().mean() > 0.25
    return (pictures_NHWC[:, inside].float() - wanted[inside]).abs().max().item()


def as_pictures(x_NCTHW, videos):
    return x_NCTHW.permute(0, 2, 3, 4, 1).reshape(videos, -1, *x_NCTHW.shape[3:], 3)


def test_colours_of_evaluation(patches):
    loader = EvalLoader(patches, "val", Sampling(2, 2, 3, 2 * SIDE), global_batch=3, device=CPU)
    (batch,) = loader
    found = [
        worst(pictures, crop, 2 * SIDE)
        for x, crop in zip(batch.crops, three_crops(3 * SIDE, 2 * SIDE), strict=True)
        for pictures in as_pictures(x, 3)
    ]
    assert max(found) <= TOLERANCE[patches.codec]


def test_colours_of_training(patches):
    side, seed = 96, 1
    loader = TrainLoader(patches, "train", Sampling(2, 2, 3, side), global_batch=3, seed=seed, device=CPU)
    crops, found = set(), []
    for epoch, batch in enumerate(islice(loader, 20)):
        for number, pictures in zip(batch.rows_B.tolist(), as_pictures(batch.x, 3), strict=True):
            draws = uniform(seed, Purpose.CROP, epoch, number, TRAIN_DRAWS)
            crop = multiscale_crop(3 * SIDE, 2 * SIDE, draws, loader_scales())
            crops.add(crop)
            found.append(worst(pictures, crop, side))
    assert max(found) <= TOLERANCE[patches.codec]
    assert len(crops) > 20
    assert {crop.flip for crop in crops} == {True, False}


def loader_scales():
    return Sampling(1, 1, 1, 1).scales


# The bright half of the frame is where the name says; "Nodding" is bright above.
CLASSES = ["Nodding", "Pushing to the left", "Pushing to the right", "Waving left"]
BRIGHT = {
    "Nodding": np.s_[:32, :],
    "Pushing to the left": np.s_[:, :32],
    "Pushing to the right": np.s_[:, 32:],
    "Waving left": np.s_[:, :32],
}


@pytest.fixture(scope="module", params=["mjpeg", "vp9"])
def directions(request, tmp_path_factory):
    from preprocess.datasets.folder import list_folder

    root = tmp_path_factory.mktemp("directions")
    for split in ("train", "val"):
        for name in CLASSES:
            for number in range(2):
                frame = np.full((64, 64, 3), 20, np.uint8)
                frame[BRIGHT[name]] = 220
                # What would be lost if all but the halves were the same: where the top of the frame is.
                frame[:8, 28:36] = (255, 0, 0)
                render(root / "videos" / split / name / f"{number}.mkv", np.repeat(frame[None], 6, axis=0))
    listing = list_folder(root / "videos", val_fraction=0)
    dataset = preprocessed(listing, root / "shards", "64x64", codec=request.param)
    assert list(dataset.classes) == CLASSES
    return dataset


def shown(pictures_NHWC):
    """Which class the pixels of a video's pictures show, as far as they do."""
    light = pictures_NHWC.float().mean(dim=(0, 3))
    side = light.shape[0]
    left, right = light[side // 2 :, : side // 4].mean(), light[side // 2 :, -side // 4 :].mean()
    if abs(left - right) < 50:
        return {"Nodding"}
    return {"Pushing to the left", "Waving left"} if left > right else {"Pushing to the right"}


def test_labels_follow_what_flipped_videos_show(directions):
    # The whole frame, so that both halves are seen.
    take = Sampling(1, 2, 2, 64, scales=(1.0,))
    loader = TrainLoader(directions, "train", take, global_batch=8, seed=0, device=CPU)
    seen = set()
    for batch in islice(loader, 24):
        for place, row in enumerate(batch.rows_B.tolist()):
            was, now = CLASSES[loader.index[row].label], CLASSES[batch.labels_B[place]]
            assert now in shown(as_pictures(batch.x, 8)[place])
            seen.add((was, now))
    assert seen == {
        ("Nodding", "Nodding"),
        ("Pushing to the left", "Pushing to the left"),
        ("Pushing to the left", "Pushing to the right"),
        ("Pushing to the right", "Pushing to the right"),
        ("Pushing to the right", "Pushing to the left"),
        # There is no class for it mirrored: it never is.
        ("Waving left", "Waving left"),
    }


def test_other_classes_are_flipped_and_keep_their_label(patches):
    loader = TrainLoader(patches, "train", Sampling(1, 1, 1, 128, scales=(1.0,)), global_batch=3, seed=0, device=CPU)
    flipped = set()
    for batch in islice(loader, 12):
        for place, row in enumerate(batch.rows_B.tolist()):
            assert batch.labels_B[place] == loader.index[row].label
            corner = as_pictures(batch.x, 3)[place, 0, 20, 20].float()
            red, blue = (torch.tensor(COLOURS[name]) for name in ("red", "blue"))
            flipped.add((row, bool((corner - blue).abs().max() < (corner - red).abs().max())))
    assert len(flipped) == 6


def test_evaluation_never_flips(directions):
    loader = EvalLoader(directions, "val", Sampling(1, 2, 2, 64), global_batch=4, device=CPU)
    seen = []
    for batch in loader:
        for place, row in enumerate(batch.rows_B.tolist()):
            assert batch.labels_B[place] == loader.index[row].label
            assert CLASSES[batch.labels_B[place]] in shown(as_pictures(batch.x, 4)[place])
            seen.append(row)
    assert seen == list(range(8))
