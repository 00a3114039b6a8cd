"""A small dataset of synthetic videos with a known picture in every frame.

What knows ffmpeg is imported where it is used: the tests for a GPU also run on machines that have none.
"""

import subprocess
from functools import partial

import pytest

from preprocess.index import read_dataset

# Frames, frame size and source: short, long, upright and odd sizes; pictures that move, so that each frame differs.
SOURCES = {
    "gradients": "gradients=size={size}:speed=0.08:nb_colors=6:seed={seed}:rate=25,hue=s=0.3",
    "cells": "cellauto=size={size}:rule=110:seed={seed}:rate=25,gblur=4,format=yuv420p",
}
SHAPES = [(60, "160x128"), (33, "90x74"), (7, "64x96"), (1, "48x48"), (128, "160x120")]


@pytest.fixture(scope="session")
def videos(tmp_path_factory):
    """root/{train,val}/CLASS/N.mp4, five videos of two classes in each split."""
    from preprocess.ffmpeg import executable

    root = tmp_path_factory.mktemp("videos")
    for split_number, split in enumerate(("train", "val")):
        for label, (name, source) in enumerate(SOURCES.items()):
            (root / split / name).mkdir(parents=True)
            for i, (frames, size) in enumerate(SHAPES):
                lavfi = source.format(size=size, seed=100 * split_number + 10 * label + i)
                out = root / split / name / f"{i}.mkv"
                command = [executable(), "-loglevel", "error", "-f", "lavfi", "-i", lavfi, "-frames:v", str(frames)]
                subprocess.run(
                    [
                        *command,
                        "-c:v",
                        "libx264",
                        "-qp",
                        "10",
                        "-pix_fmt",
                        "yuv420p",
                        "-vf",
                        "scale=trunc(iw/2)*2:trunc(ih/2)*2",
                        str(out),
                    ],
                    check=True,
                )
    return root


@pytest.fixture(scope="session")
def preprocessed(videos, tmp_path_factory):
    """A function: ``videos`` preprocessed with some options of EncodeOptions, once for each."""
    from preprocess.datasets.folder import list_folder
    from preprocess.ffmpeg import EncodeOptions
    from preprocess.local import write_shards_locally
    from preprocess.run import preprocess

    root = tmp_path_factory.mktemp("shards")
    made = {}

    def make(resize, **options):
        name = "-".join(map(str, (resize, *options.values())))
        if name not in made:
            listing = list_folder(videos, val_fraction=0)
            executor = partial(write_shards_locally, workers=2)
            preprocess(listing, root / name, EncodeOptions(resize, **options), executor, shard_size=4)
            made[name] = read_dataset(root / name)
        return made[name]

    return make


@pytest.fixture(scope="session")
def dataset(preprocessed):
    """``videos`` as JPEGs of 80×64."""
    return preprocessed("80x64")
