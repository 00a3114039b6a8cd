"""The codecs, each really tried: small videos are made, preprocessed, and loaded as in training."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import torch
from nvidia import nvimgcodec

from benchmarks.contenders import route_name
from benchmarks.doctor.finding import Finding
from benchmarks.routes import OurLoader
from benchmarks.turns import RouteFailed, Work, take_turn
from pipelines import MappedShards, Sampling, decode_threads
from preprocess.errors import V4dError
from preprocess.ffmpeg import EncodeOptions
from preprocess.index import Dataset, packet_offsets, read_dataset
from preprocess.local import write_shards_locally
from preprocess.ordered_actions import list_videos, render
from preprocess.run import preprocess

# The loader decodes H.264 on a GPU alone.
_CODECS = {"cpu": ("mjpeg", "vp9"), "cuda": ("mjpeg", "vp9", "h264")}
# No smaller than what NVDEC takes of any of them.
_SIZE = 256
_SECONDS = 0.1


def codecs(folder: Path, devices: tuple[str, ...], needed: tuple[str, str]) -> list[Finding]:
    """Each codec on each of ``devices`` ("cpu", "cuda"), with what is made for that in ``folder``.

    ``needed`` are the codec and the device of training.
    """
    found = []
    made: dict[str, Dataset | str] = {}
    for device in devices:
        for codec in _CODECS[device]:
            if codec not in made:
                made[codec] = _dataset(folder, codec)
            found.append(tried(made[codec], codec, device, needed == (codec, device)))
    if "cuda" in devices and isinstance(jpegs := made["mjpeg"], Dataset):
        found.append(jpeg_engine(_first_packet(jpegs)))
    return found


def tried(dataset: Dataset | str, codec: str, device: str, needed: bool) -> Finding:
    """Whether the loader loads a dataset; a string says why there is none."""
    about = f"{codec} on the {'GPU' if device == 'cuda' else 'CPU'}"
    if isinstance(dataset, str):
        return Finding(about, "missing", f"could not be tried: {dataset}", "see ffmpeg")
    work = Work(dataset.root, "train", Sampling(2, 2, 8, 224), 2, device, decode_threads(), _SECONDS)
    try:
        take_turn(OurLoader(route_name(dataset), dataset.root), work)
    except RouteFailed as error:
        advice = {"mjpeg": "see DALI and the driver", "vp9": "preprocess with --codec mjpeg"}.get(
            codec, "preprocess with --codec mjpeg or vp9; containers want NVIDIA_DRIVER_CAPABILITIES=video too"
        )
        return Finding(about, "missing", f"does not decode: {error}", advice, needed)
    return Finding(about, "ok", "decodes")


def jpeg_engine(jpeg: bytes) -> Finding:
    """Whether the GPU has an engine for JPEG, by nvImageCodec, which decodes JPEG for DALI."""
    about, engine = "JPEG engine", nvimgcodec.Backend(nvimgcodec.BackendKind.HW_GPU_ONLY)
    try:
        picture = nvimgcodec.Decoder(device_id=torch.cuda.current_device(), backends=[engine]).decode(jpeg)
    except RuntimeError as error:
        return Finding(about, "slow", str(error).partition("\n")[0], "JPEG is decoded by the GPU's cores and the CPU")
    if picture is None:
        return Finding(
            about, "slow", "none", "JPEG is decoded by the GPU's cores and the CPU, as A100 and H100 need not"
        )
    return Finding(about, "ok", "decodes")


def _dataset(folder: Path, codec: str) -> Dataset | str:
    """A dataset of a codec, or why ffmpeg does not write it."""
    videos, out = folder / "videos", folder / codec
    try:
        render(videos, {"train": 1}, seed=0, workers=2, on_video=lambda: None)
        options = EncodeOptions(f"{_SIZE}x{_SIZE}", codec=codec)
        preprocess(list_videos(videos), out, options, partial(write_shards_locally, workers=1))
        return read_dataset(out)
    except (V4dError, OSError) as error:
        return str(error)


def _first_packet(dataset: Dataset) -> bytes:
    row = dataset.split("train")[0]
    start = row.offset + int(packet_offsets(dataset.codec, row.packet_bytes)[0])
    return MappedShards(dataset.root / "train").read(row.shard, start, int(row.packet_bytes[0])).tobytes()
