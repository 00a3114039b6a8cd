"""Reads a video from shards with nothing of this project's code: docs/shards.md is all that it was written from.

python examples/read_shards.py shards/fights val 0 frame.png
"""

import io
import json
import sys
import zlib
from pathlib import Path
from typing import Any

import pyarrow as pa
from PIL import Image


def read_video(data: Path, split: str, number: int) -> tuple[str, dict[str, Any], list[bytes]]:
    """The codec of the dataset, a row of its index, and the packets of that video. ValueError: one is damaged."""
    codec = json.loads((data / "dataset.json").read_bytes())["codec"]
    with pa.memory_map(str(data / split / "index.arrow")) as file, pa.ipc.open_file(file) as index:
        row = index.get_batch(number // 1024).slice(number % 1024, 1).to_pylist()[0]
    with open(data / split / f"shard-{row['shard']:05d}.tar", "rb") as shard:
        shard.seek(row["offset"] + (0 if codec == "mjpeg" else 32))
        packets = []
        for size, crc32 in zip(row["packet_bytes"], row["packet_crc32"], strict=True):
            shard.seek(0 if codec == "mjpeg" else 12, io.SEEK_CUR)
            packets.append(shard.read(size))
            if zlib.crc32(packets[-1]) != crc32:
                raise ValueError(f"packet {len(packets) - 1} of {row['key']} is damaged")
    return codec, row, packets


def needed(row: dict[str, Any], frame: int) -> list[int]:
    """The packets that a decoder needs to show a frame, in order, from a keyframe on."""
    found = [frame]
    while back := row["packet_back"][found[0]]:
        found.insert(0, found[0] - back)
    return found


if __name__ == "__main__":
    codec, row, packets = read_video(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
    print(f"{row['key']}: {row['frames']} frames of {codec}; the last one needs {needed(row, row['frames'] - 1)}")
    if codec == "mjpeg":
        Image.open(io.BytesIO(packets[0])).save(sys.argv[4])
