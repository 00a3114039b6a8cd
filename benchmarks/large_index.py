"""What an index of a million videos costs a reader: time to open it, time of a random row, and memory.

python -m benchmarks.large_index [--videos 1000000] [--packets 300] [--rows 10000] [--file index.arrow]

The index is written first, unless the file is there already (3 GB for the defaults); it is read by a fresh process.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
from rich.console import Console
from rich.table import Table

from preprocess.index import SCHEMA, Index, write_index
from v4d.resident_memory import resident

_ROWS_PER_PART = 256


def parts(videos: int, packets: int) -> Iterator[pa.RecordBatch]:
    """Made-up rows, as a shard's part of the index at a time, so that memory stays small."""
    random = np.random.default_rng(0)
    for first in range(0, videos, _ROWS_PER_PART):
        count = min(_ROWS_PER_PART, videos - first)
        numbers = np.arange(first, first + count)
        ends = np.arange(0, (count + 1) * packets, packets, dtype=np.int32)
        flat = {
            "packet_bytes": random.integers(5_000, 15_000, count * packets, np.int32),
            "packet_crc32": random.integers(0, 2**32, count * packets, np.uint32),
            "packet_back": np.zeros(count * packets, np.uint8),
        }
        columns = {
            "key": [f"class {n % 400:03d}/video-{n:011d}" for n in numbers],
            "source": [f"train/class {n % 400:03d}/video-{n:011d}.mp4" for n in numbers],
            "labels": [[int(n) % 400] for n in numbers],
            "shard": numbers // _ROWS_PER_PART,
            "offset": numbers % _ROWS_PER_PART * 3_000_000 + 512,
            "size": np.full(count, packets * 10_000),
            "frames": np.full(count, packets),
            "width": np.full(count, 320),
            "height": np.full(count, 256),
            "fps_num": np.full(count, 30),
            "fps_den": np.full(count, 1),
            "start": np.zeros(count),
            "end": np.full(count, packets / 30),
            "segments": [[]] * count,
        }
        arrays = [
            pa.ListArray.from_arrays(pa.array(ends), pa.array(flat[field.name]))
            if field.name in flat
            else pa.array(columns[field.name], field.type)
            for field in SCHEMA
        ]
        yield pa.record_batch(arrays, schema=SCHEMA)


def measure(path: Path, rows: int) -> Table:
    """Open the index, read random rows, and say what it cost."""
    began = time.perf_counter()
    index = Index(path)
    opened = time.perf_counter() - began
    began = time.perf_counter()
    length = len(index)
    counted = time.perf_counter() - began
    index[0]
    before, most, taken = resident(), resident(), []
    for number in np.random.default_rng(1).integers(0, length, rows).tolist():
        began = time.perf_counter()
        row = index[number]
        row.packet_bytes.sum(), row.packet_crc32.max(), row.packet_back.max()
        taken.append(time.perf_counter() - began)
        if len(taken) % 10 == 0:
            now = resident()
            most = {kind: max(most[kind], now[kind]) for kind in now}
    table = Table("", "measured", "target", title=f"{length:,} videos, {path.stat().st_size / 1e9:.2f} GB")
    table.add_row("open", f"{opened * 1e3:.1f} ms", "100 ms")
    table.add_row("len", f"{counted * 1e6:.1f} µs", "")
    table.add_row("a random row, median", f"{np.median(taken) * 1e6:.0f} µs", "1,000 µs")
    table.add_row("a random row, 99th percentile", f"{np.percentile(taken, 99) * 1e6:.0f} µs", "1,000 µs")
    table.add_row("a random row, slowest", f"{max(taken) * 1e6:.0f} µs", "")
    after = resident()
    for kind, target in (("all", "100 MB"), ("anonymous", ""), ("files", "")):
        grown = f"{after[kind] - before[kind]:.0f} MB (at most {most[kind] - before[kind]:.0f} MB)"
        table.add_row(f"memory grown over {rows:,} rows: {kind}", grown, target)
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", type=int, default=1_000_000)
    parser.add_argument("--packets", type=int, default=300)
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--file", type=Path, help="the index; written if it is not there, and kept")
    parser.add_argument("--only-read", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.only_read:
        Console(width=100).print(measure(args.file, args.rows))
        return
    with tempfile.TemporaryDirectory() as folder:
        path = args.file or Path(folder) / "index.arrow"
        if not path.exists():
            began = time.perf_counter()
            write_index(path, parts(args.videos, args.packets), {"split": "train"})
            print(f"written in {time.perf_counter() - began:.0f} s, {resident()['all']:.0f} MB of memory")
        command = [
            sys.executable,
            "-m",
            "benchmarks.large_index",
            "--only-read",
            "--file",
            str(path),
            "--rows",
            str(args.rows),
        ]
        subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
