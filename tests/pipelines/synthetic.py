"""Videos of known pixels, and datasets of them; and datasets that are an index alone, for what plans and reads none."""

import subprocess
from functools import partial

import numpy as np

from pipelines import MappedShards
from preprocess.index import Dataset, VideoRow, as_record_batch, read_dataset, write_index


def render(path, pictures, rate=25):
    """Write pictures (N, H, W, 3) uint8 RGB as a lossless video of as many frames per second."""
    from preprocess.ffmpeg import executable

    path.parent.mkdir(parents=True, exist_ok=True)
    height, width = pictures.shape[1:3]
    raw = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-r", str(rate), "-i", "pipe:0"]
    lossless = ["-c:v", "ffv1", "-pix_fmt", "bgr0", str(path)]
    subprocess.run([executable(), "-loglevel", "error", *raw, *lossless], input=pictures.tobytes(), check=True)


def preprocessed(listing, data, size, **options):
    """The dataset of a listing."""
    from preprocess.ffmpeg import EncodeOptions
    from preprocess.local import write_shards_locally
    from preprocess.run import preprocess

    preprocess(listing, data, EncodeOptions(size, **options), partial(write_shards_locally, workers=2), shard_size=4)
    return read_dataset(data)


def a_row(number, frames, **changes):
    """A row of 25 frames/s from 0 s on."""
    about = {
        "key": f"v{number}",
        "source": f"v{number}.mp4",
        "labels": (number % 3,),
        "shard": 0,
        "offset": 0,
        "size": frames,
        "frames": frames,
        "width": 85,
        "height": 64,
        "fps_num": 25,
        "fps_den": 1,
        "start": 0.0,
        "end": frames / 25,
        "segments": (),
        "packet_bytes": np.ones(frames, np.int32),
        "packet_crc32": np.zeros(frames, np.uint32),
        "packet_back": np.zeros(frames, np.uint8),
    }
    return VideoRow(**{**about, **changes})


def index_alone(root, rows, metadata=None):
    """A dataset with a split ``train`` of these rows and no shard."""
    count = write_index(root / "train" / "index.arrow", [as_record_batch(rows)], metadata or {})
    return Dataset(
        root=root,
        kind="activitynet",
        classes=("a", "b", "c"),
        codec="mjpeg",
        size=None,
        splits={"train": {"videos": count}},
        options={},
        flip={},
        fingerprint=str(root),
    )


class CountingShards(MappedShards):
    """Shards that count what is read of them."""

    def __init__(self, split_root):
        super().__init__(split_root)
        self.reads = 0

    def read(self, shard, offset, size):
        self.reads += 1
        return super().read(shard, offset, size)
