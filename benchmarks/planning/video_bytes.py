"""What a video takes: bytes in a shard, in the index, and of those the bytes that a step of training reads."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np

from benchmarks.planning.constants import Figure, constants
from pipelines.packets import needed_packets
from pipelines.randomness import Purpose, uniform
from pipelines.sampling import random_units
from preprocess.ffmpeg import EncodeOptions
from preprocess.index import CODEC_SUFFIX, ROWS_PER_BATCH, VideoRow, as_record_batch, packet_offsets, write_index
from preprocess.shard_tar import header_of, padding_of
from v4d.config import DataConfig

# As many videos say what a step reads of one, in the mean.
_SAMPLES = 500
_SEED = 0


def options_of(codec: str) -> EncodeOptions:
    """How a codec is written where nothing else is asked for. Raises UsageError if there is none such."""
    return EncodeOptions(codec=codec)


def packet_sizes(codec: str, frames: int) -> np.ndarray:
    """Bytes of each packet of a video, as those of the measured videos in the mean; (frames,) int32."""
    of_back = {one.back: one.value for one in constants().packet if one.codec == codec}
    return np.array([round(of_back[back]) for back in references(codec, frames).tolist()], np.int32)


def packet_figure(codec: str) -> Figure:
    """Where ``packet_sizes`` are from: the size of a keyframe, with those of the other packets beside it."""
    keyframe, *others = sorted((one for one in constants().packet if one.codec == codec), key=lambda one: one.back)
    sizes = ", ".join(f"{one.value:,.0f} at {one.back} back" for one in others)
    return replace(keyframe.figure(), unit="bytes a keyframe", note=sizes)


def references(codec: str, frames: int) -> np.ndarray:
    """How many packets back the reference of each packet lies, in a codec's own groups; (frames,) uint8."""
    options = options_of(codec)
    return np.array([options.back_of(number) for number in range(frames)], np.uint8)


def made_up_row(codec: str, frames: int, fps: float, number: int = 0) -> VideoRow:
    """A video of the planned kind, as its index would have it."""
    sizes = packet_sizes(codec, frames)
    return VideoRow(
        key=f"class {number % 400:03d}/video-{number:011d}",
        source=f"train/class {number % 400:03d}/video-{number:011d}.mp4",
        labels=(number % 400,),
        shard=0,
        offset=4096,
        size=int(packet_offsets(codec, sizes)[-1]) + int(sizes[-1]),
        frames=frames,
        width=320,
        height=256,
        fps_num=round(fps * 1000),
        fps_den=1000,
        start=0.0,
        end=frames / fps,
        segments=(),
        packet_bytes=sizes,
        packet_crc32=np.full(frames, 2**31, np.uint32),
        packet_back=references(codec, frames),
    )


def bytes_in_shard(row: VideoRow, codec: str) -> int:
    """What a video takes of a tar: packets, row, and a header and padding for each of these."""
    about = row.as_json(2**31)
    names = (f"{row.key}.{CODEC_SUFFIX[codec]}", row.size), (f"{row.key}.json", len(about))
    return sum(len(header_of(name, size)) + size + len(padding_of(size)) for name, size in names)


def bytes_in_index(row: VideoRow) -> float:
    """What a video takes of index.arrow: a whole batch of such rows is written, and nothing is kept."""
    with tempfile.TemporaryDirectory() as folder:
        sizes = []
        for batches in (1, 2):
            path = Path(folder) / f"{batches}.arrow"
            write_index(path, [as_record_batch([row] * ROWS_PER_BATCH)] * batches, {})
            sizes.append(path.stat().st_size)
    return (sizes[1] - sizes[0]) / ROWS_PER_BATCH


def bytes_read(row: VideoRow, data: DataConfig) -> float:
    """Bytes of the packets that training reads of a video, in the mean over samples drawn as the loader draws them."""
    take = data.train_sampling()
    keyframes = np.flatnonzero(row.packet_back == 0) if take.keyframe_starts else None
    stride, read = take.stride_for(row.frames), 0
    for number in range(_SAMPLES):
        draws = uniform(_SEED, Purpose.UNITS, 0, number, take.units)
        wanted = random_units(row.frames, take.units, take.frames, stride, draws, keyframes)
        read += int(row.packet_bytes[needed_packets(row.packet_back, np.unique(wanted).tolist())].sum())
    return read / _SAMPLES
