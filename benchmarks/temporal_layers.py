"""VP9 in 3 and 2 temporal layers against plain VP9: size, quality, packets decoded per frame used, and DALI's speed.

python benchmarks/temporal_layers.py [--videos DIR] [--clips 24] [--rounds 9] [--device cpu|gpu]

Clips of 10 s, 320x256 at 30/s, are made of videos in DIR (forwards and backwards until they are long enough), or by
ffmpeg alone. Each is encoded in every way by what `v4d preprocess` calls. Quality is the PSNR of luma against the
clip, for each video over all its frames, then the mean. Speed is that of `fn.decoders.video` on clip streams of the
needed packets, 4 units of 4 frames at stride 8 with random starts; all ways by turns in one process. On the CPU its
own time is counted too, which other work on the machine does not change; on the GPU clips share 8 streams per batch.
"""

from __future__ import annotations

import argparse
import io
import resource
import statistics
import subprocess
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import av
import numpy as np
from nvidia.dali import Pipeline, fn, types

from pipelines.packets import needed_packets
from pipelines.sampling import random_units
from preprocess.encode import encode
from preprocess.ffmpeg import EncodeOptions, executable, version
from preprocess.packets import ivf_header, ivf_packet_header, ivf_packets

SECONDS, RATE, SIZE = 10, 30, (320, 256)
UNITS, UNIT_FRAMES, STRIDE = 4, 4, 8
BATCH, STREAMS_ON_GPU = 16, 8
SAMPLINGS = ((4, 4, 8), (4, 8, 8), (4, 4, 4), (10, 4, 8))
# Layers, GOP, qualities: the first is what the others are compared with.
WAYS = (
    *((1, 8, (37, 41, 31)), (3, 32, (33, 37, 41)), (3, 24, (33, 37, 41)), (3, 16, (33, 37, 41))),
    *((2, 32, (33, 37, 41)), (3, 8, (37, 41)), (3, 64, (33, 37)), (1, 32, (33, 37))),
)


@dataclass
class Way:
    """Clips encoded in one way; all figures are per clip."""

    layers: int
    gop: int
    quality: int
    packets: list[list[bytes]] = field(default_factory=list)
    back: list[np.ndarray] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    psnr: list[float] = field(default_factory=list)
    encoding_cpu: list[float] = field(default_factory=list)
    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    decoded: int = 0
    used: int = 0
    read: int = 0

    @property
    def size(self) -> float:
        return statistics.mean(self.sizes) / 1e3

    @property
    def luma(self) -> float:
        return statistics.mean(self.psnr)

    @property
    def name(self) -> str:
        return f"{f'{self.layers} layers' if self.layers > 1 else 'plain'}, GOP {self.gop}, quality {self.quality}"


def make_clips(videos: list[Path], clips: int, out: Path) -> list[Path]:
    """Lossless clips of a length; of ffmpeg's own pictures where there are no videos."""
    frames, (width, height) = SECONDS * RATE, SIZE
    scale = f"fps={RATE},scale={width}:{height}:flags=bicubic+full_chroma_int:out_color_matrix=bt601:out_range=tv"
    there_and_back = f"[0:v]{scale},format=yuv420p,split[a][b];[b]reverse[c];[a][c]concat=n=2:v=1"
    repeated = f"loop=loop=-1:size={frames},trim=end_frame={frames},setpts=N/{RATE}/TB"

    def make(number: int) -> Path:
        if videos:
            source = ["-i", str(videos[number * len(videos) // clips])]
            chain = f"{there_and_back},{repeated}"
        else:
            picture = f"gradients=size={width}x{height}:rate={RATE}:speed=0.05:seed={number},noise=alls=12:allf=t"
            source = ["-f", "lavfi", "-i", picture]
            chain = f"[0:v]format=yuv420p,trim=end_frame={frames}"
        path = out / f"{number:03d}.mkv"
        encoder = ["-c:v", "libx264", "-qp", "0", "-preset", "ultrafast", "-colorspace", "bt470bg"]
        line = [executable(), "-nostdin", "-loglevel", "error", *source, "-filter_complex", chain, *encoder]
        subprocess.run([*line, "-color_range", "tv", "-r", str(RATE), str(path)], check=True)
        return path

    with ThreadPoolExecutor(2) as executor:
        return list(executor.map(make, range(clips)))


def lumas(path: Path | io.BytesIO) -> list[np.ndarray]:
    with av.open(path if isinstance(path, io.BytesIO) else str(path), "r") as container:
        return [frame.to_ndarray(format="gray8") for frame in container.decode(video=0)]


def encode_in(way: Way, clips: list[Path]) -> None:
    options = EncodeOptions(codec="vp9", layers=way.layers, gop=way.gop, quality=way.quality)
    for clip in clips:
        sink = io.BytesIO()
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        _, packets = encode(clip, options, sink)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        way.encoding_cpu.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
        way.back.append(packets.back)
        way.sizes.append(len(sink.getvalue()))
        sink.seek(0)
        way.packets.append([bytes(packet) for packet in ivf_packets(sink)])
        sink.seek(0)
        pairs = zip(lumas(clip), lumas(sink), strict=True)
        error = statistics.mean(float(np.square(a.astype(np.int32) - b).mean()) for a, b in pairs)
        way.psnr.append(10 * np.log10(255**2 / error))


def streams_of(
    way: Way, chosen: list[tuple[int, list[int]]], streams: int
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Clips and the frames wanted of each, put together to so many streams; and the positions to decode."""
    data, positions = [], []
    for part in np.array_split(np.arange(len(chosen)), streams):
        packets: list[bytes] = []
        at: list[int] = []
        for clip, frames in (chosen[number] for number in part):
            kept = needed_packets(way.back[clip], frames)
            at += [len(packets) + kept.index(frame) for frame in frames]
            packets += [way.packets[clip][k] for k in kept]
        content = b"".join(ivf_packet_header(len(packet), k) + packet for k, packet in enumerate(packets))
        way.decoded, way.used, way.read = way.decoded + len(packets), way.used + len(at), way.read + len(content)
        data.append(np.frombuffer(ivf_header(b"VP90", *SIZE, (RATE, 1), len(packets)) + content, np.uint8))
        positions.append(np.array(at, np.int32))
    return data, positions


def measure(ways: list[Way], rounds: int, on_gpu: bool) -> None:
    streams = STREAMS_ON_GPU if on_gpu else BATCH
    graph = Pipeline(streams, 8 if on_gpu else 2, 0 if on_gpu else None, prefetch_queue_depth=1)
    with graph:
        data = fn.external_source(name="data", dtype=types.UINT8, ndim=1)
        at = fn.external_source(name="at", dtype=types.INT32, ndim=1)
        graph.set_outputs(fn.decoders.video(data, frames=at, device="mixed" if on_gpu else "cpu"))
    graph.build()
    random = np.random.default_rng(0)
    for number in range(rounds + 1):
        clips = random.integers(0, len(ways[0].packets), BATCH).tolist()
        chosen = []
        for clip in clips:
            frames = random_units(SECONDS * RATE, UNITS, UNIT_FRAMES, STRIDE, random.random(UNITS))
            chosen.append((clip, np.unique(frames).tolist()))
        for way in ways:
            fed = streams_of(way, chosen, streams)
            graph.feed_input("data", fed[0])
            graph.feed_input("at", fed[1])
            wall, cpu = time.perf_counter(), time.process_time()
            (output,) = graph.run()
            frames_out = sum(shape[0] for shape in output.shape())
            wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
            assert frames_out == sum(len(frames) for _, frames in chosen), "not every frame came out"
            # The first round warms up.
            if number:
                way.wall.append(wall)
                way.cpu.append(cpu)


def at_equal(ways: list[Way], base: Way) -> tuple[float, float]:
    """Bytes at the quality of ``base``, as a ratio, and dB more at its size: of one way in several qualities."""
    by_size = sorted(ways, key=lambda way: way.size)
    sizes, luma = np.log([way.size for way in by_size]), [way.luma for way in by_size]
    slope = (luma[-1] - luma[0]) / (sizes[-1] - sizes[0])

    def nearest(values: list[float] | np.ndarray, value: float) -> int:
        return int(np.argmin(np.abs(np.asarray(values) - value)))

    near = nearest(luma, base.luma)
    size = sizes[near] + (base.luma - luma[near]) / slope
    near = nearest(sizes, np.log(base.size))
    return float(np.exp(size)) / base.size, luma[near] + (np.log(base.size) - sizes[near]) * slope - base.luma


def report(ways: list[Way]) -> None:
    base, frames = ways[0], SECONDS * RATE
    encoding, decoding = f"{'encoded':>9}{'decoded':>9}", f"{'decoding':>10}{'ratio':>7}{'ms of':>7}{'ratio':>7}"
    print(f"{'':34}{'KB':>6}{'dB':>7}{encoding}{'KB':>6}{decoding}")
    print(f"{'':34}{'/clip':>6}{'':7}{'frames/s':>9}{'/used':>9}{'read':>6}{'videos/s':>10}{'':7}{'CPU':>7}")
    for way in ways:
        faster = statistics.median(a / b for a, b in zip(base.wall, way.wall, strict=True))
        cheaper = statistics.median(a / b for a, b in zip(base.cpu, way.cpu, strict=True))
        videos = len(way.wall) * BATCH + BATCH
        print(
            f"{way.name:34}{way.size:6.0f}{way.luma:7.2f}{frames / statistics.median(way.encoding_cpu):9.0f}"
            f"{way.decoded / way.used:9.2f}{way.read / videos / 1e3:6.0f}{BATCH / statistics.median(way.wall):10.1f}"
            f"{faster:7.2f}{statistics.median(way.cpu) / BATCH * 1e3:7.1f}{cheaper:7.2f}"
        )
    print(f"\nagainst {base.name}:")
    for layers, gop, _ in WAYS:
        of_this = [way for way in ways if (way.layers, way.gop) == (layers, gop)]
        if len(of_this) > 1:
            size, better = at_equal(of_this, base)
            name = of_this[0].name.rpartition(",")[0]
            print(f"{name:20} bytes at equal quality {size:5.2f}, quality at equal size {better:+5.2f} dB")


def report_sampling() -> None:
    """What other samplings cost in packets; follows from the references alone."""
    frames = SECONDS * RATE
    chosen: dict[str, list[list[int]]] = {}
    for units, unit_frames, stride in SAMPLINGS:
        random = np.random.default_rng(0)
        starts = (random_units(frames, units, unit_frames, stride, random.random(units)) for _ in range(1000))
        chosen[f"{units}x{unit_frames}, stride {stride}"] = [np.unique(indices).tolist() for indices in starts]
        on_keyframe = [stride * number for number in range(unit_frames)]
        chosen[f"{unit_frames} from a keyframe on, stride {stride}"] = [on_keyframe]
    print("\npackets decoded per frame used, units of random starts and such as begin at a keyframe")
    print(f"{'layers-GOP':32}" + "".join(f"{f'{layers}-{gop}':>8}" for layers, gop, _ in WAYS))
    for name, sets in chosen.items():
        line = f"{name:32}"
        for layers, gop, _ in WAYS:
            options = EncodeOptions(codec="vp9", layers=layers, gop=gop)
            back = np.array([options.back_of(number) for number in range(frames)])
            line += f"{sum(len(needed_packets(back, one)) for one in sets) / sum(map(len, sets)):8.2f}"
        print(line)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", type=Path, help="a folder with videos, in any folders")
    parser.add_argument("--clips", type=int, default=24)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--device", choices=["cpu", "gpu"], default="cpu")
    args = parser.parse_args()
    videos = sorted(path for path in args.videos.rglob("*.*") if path.is_file()) if args.videos else []
    with tempfile.TemporaryDirectory() as folder:
        clips = make_clips(videos, args.clips, Path(folder))
        ways = [Way(layers, gop, quality) for layers, gop, qualities in WAYS for quality in qualities]
        print(
            f"{len(clips)} clips of {SECONDS} s, ffmpeg {version()}, {args.rounds} rounds by turns on the {args.device}"
        )
        for way in ways:
            encode_in(way, clips)
    measure(ways, args.rounds, args.device == "gpu")
    report(ways)
    report_sampling()


if __name__ == "__main__":
    main()
