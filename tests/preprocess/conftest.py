"""Small finished datasets to look at, and to damage copies of."""

import io
import os
import shutil
import tarfile
import zlib
from functools import partial

import numpy as np
import pytest

from preprocess.index import FORMAT, VideoRow, shard_name
from preprocess.packet_walk import packets_of
from preprocess.shard_tar import ABOUT, REJECTED, TarWriter, as_text

LONG_CLASS = "漢" * 50


@pytest.fixture(scope="session")
def small(video, tmp_path_factory):
    """Eight videos of three classes and two that cannot be read, in five shards. Not to be changed."""
    from preprocess.datasets.folder import list_folder
    from preprocess.ffmpeg import EncodeOptions
    from preprocess.local import write_shards_locally
    from preprocess.run import preprocess

    root = tmp_path_factory.mktemp("videos")
    sources = {
        "a": ["h264.mp4", "vfr.mkv", "vfr.mp4", "broken.mp4"],
        "b": ["one_frame.mp4", "edit_list.mp4", "broken.mp4"],
        LONG_CLASS: ["one_frame.mp4", "vfr.mkv", "vfr.mp4"],
    }
    for name, files in sources.items():
        (root / name).mkdir()
        for source in files:
            content = b"no video" if source == "broken.mp4" else video(source).read_bytes()
            (root / name / source).write_bytes(content)
    data = tmp_path_factory.mktemp("shards") / "small"
    listing = list_folder(root, 0.4)
    preprocess(listing, data, EncodeOptions(48, 32, quality=12), partial(write_shards_locally, workers=2), shard_size=2)
    return data


@pytest.fixture
def copy(small, tmp_path):
    """A copy of ``small``, to be damaged."""
    return shutil.copytree(small, tmp_path / "copy")


@pytest.fixture(scope="session")
def vp9(run_ffmpeg, tmp_path_factory):
    """Two VP9 videos in IVF members of one shard, without anything beside it. Not to be changed."""
    data = tmp_path_factory.mktemp("shards") / "vp9"
    (data / "train").mkdir(parents=True)
    about = {"format": FORMAT, "kind": "folder", "codec": "vp9", "gop": 8, "size": [64, 48], "classes": ["a"]}
    with open(data / "train" / shard_name(0), "wb") as file:
        tar = TarWriter(file)
        tar.add(ABOUT, as_text({**about, "options": {"codec": "vp9"}, "split": "train", "shard": 0, "shards": 1}))
        for number, frames in enumerate((20, 3)):
            # Written to a file, so that its header gets the count of frames.
            path = data.parent / f"{number}.ivf"
            encoder = ["-c:v", "libvpx-vp9", "-deadline", "realtime", "-cpu-used", "8", "-g", "8"]
            encoder += ["-lag-in-frames", "0", "-auto-alt-ref", "0"]
            picture = f"testsrc2=size=64x48:rate=30:duration={frames / 30}"
            run_ffmpeg("-f", "lavfi", "-i", picture, *encoder, path)
            ivf = path.read_bytes()
            offset, crc32 = tar.copy(f"a/{number}.ivf", len(ivf), io.BytesIO(ivf))
            packets, back = zip(*packets_of("vp9", io.BytesIO(ivf)), strict=True)
            assert back == tuple(int(frame % 8 > 0) for frame in range(frames))
            row = VideoRow(
                key=f"a/{number}",
                source=f"{number}.mp4",
                labels=(0,),
                shard=0,
                offset=offset,
                size=len(ivf),
                frames=frames,
                width=64,
                height=48,
                fps_num=30,
                fps_den=1,
                start=0.0,
                end=frames / 30,
                segments=((0, 0.5, 1.5),),
                packet_bytes=np.array([len(packet) for packet in packets], np.int32),
                packet_crc32=np.array([zlib.crc32(packet) for packet in packets], np.uint32),
                packet_back=np.array(back, np.uint8),
            )
            tar.add(f"a/{number}.json", row.as_json(crc32))
        tar.add(REJECTED, b"")
        tar.close()
    return data


def flip(path, at, bit=0):
    """Turn one bit of a file."""
    with open(path, "r+b") as file:
        byte = os.pread(file.fileno(), 1, at)[0]
        os.pwrite(file.fileno(), bytes([byte ^ 1 << bit]), at)


def keys_by_byte(tar):
    """For each member of a tar its first byte, header included, the byte after it, and its video's key or ""."""
    with tarfile.open(tar) as file:
        members = file.getmembers()
    ends = [member.offset for member in members[1:]] + [tar.stat().st_size]
    for member, end in zip(members, ends, strict=True):
        yield member.offset, end, "" if member.name.startswith("__v4d__/") else member.name.rpartition(".")[0]
