"""How fast the loaders are alone, and beside a training step: videos/s for a dataset on this machine.

python benchmarks/loaders.py DATA [--gpu] [--batch 64] [--threads 8] [--seconds 10]
"""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Iterable
from pathlib import Path

import torch

from pipelines import Batch, EvalLoader, Sampling, TrainLoader
from preprocess.index import read_dataset


def videos_per_second(batches: Iterable[Batch], videos: int, seconds: float) -> float:
    """Rate after a warm-up of 5 batches."""
    began, done = time.perf_counter(), 0
    for i, batch in enumerate(batches):
        if batch.crops[0].is_cuda:
            torch.cuda.synchronize()
        if i < 5:
            began = time.perf_counter()
            continue
        done += videos
        if time.perf_counter() - began > seconds:
            break
    return done / (time.perf_counter() - began)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--gpu", action="store_true")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--threads", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=10.0)
    args = parser.parse_args()
    device = torch.device("cuda", 0) if args.gpu else torch.device("cpu")
    dataset = read_dataset(args.data)
    options = {"device": device, "threads": args.threads}
    train = TrainLoader(dataset, "train", Sampling(4, 4, 8, 224), global_batch=args.batch, seed=0, **options)
    print(f"{args.data} on {torch.cuda.get_device_name() if args.gpu else 'CPU'}, {args.threads} threads")
    rate = videos_per_second(train, args.batch, args.seconds)
    print(f"train  4x4 frames, multi-scale crop to 224: {rate:8.1f} videos/s")
    side = min(dataset.size or (256,))
    test = EvalLoader(dataset, "train", Sampling(10, 4, 8, side), global_batch=args.batch // 4, **options)
    rate = videos_per_second(itertools.chain.from_iterable(itertools.repeat(test)), args.batch // 4, args.seconds)
    print(f"eval  10x4 frames, three crops of {side}:     {rate:8.1f} videos/s")


if __name__ == "__main__":
    main()
