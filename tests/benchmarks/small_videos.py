"""Videos in which every frame is another picture, and datasets of them."""

from functools import partial

from preprocess.datasets.folder import list_folder
from preprocess.ffmpeg import EncodeOptions
from preprocess.index import read_dataset
from preprocess.local import write_shards_locally
from preprocess.run import preprocess

# Of pictures that move: with a crop, a flip or a frame that is not the one, or swapped colours, it is far below.
SAME_PICTURES_DB = 30


def make_videos(root, run_ffmpeg, size):
    """Six videos of 40 to 90 frames in two classes, with few keyframes and B-frames."""
    for number in range(6):
        path = root / "ab"[number % 2] / f"{number}.mp4"
        path.parent.mkdir(exist_ok=True)
        source = (
            f"nullsrc=size={size}:rate=30,format=yuv420p,geq=lum='128+90*sin((X+{5 + number}*N)/9)'"
            ":cb='128+60*sin((Y+3*N)/11)':cr='128+60*cos((X+Y+5*N)/13)'"
        )
        run_ffmpeg("-f", "lavfi", "-i", source, "-frames:v", 40 + 10 * number, "-c:v", "libx264", "-qp", 8, path)
    return root


def make_datasets(root, videos, size):
    """JPEG, and plain VP9 of GOP 8, by codec."""
    made = {}
    for codec, gop, quality in (("mjpeg", 1, 2), ("vp9", 8, 8)):
        options = EncodeOptions(size, codec=codec, gop=gop, quality=quality, layers=1)
        out = root / codec
        preprocess(list_folder(videos, 0), out, options, partial(write_shards_locally, workers=2), shard_size=2)
        made[codec] = read_dataset(out)
    return made
