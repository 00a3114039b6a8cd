"""Whether the memory of the training loader grows: a long run of batches in a process of its own.

python -m benchmarks.loader_memory DATA [--batches 10000] [--batch 1] [--gpu] [--max-bad 0.001]
"""

from __future__ import annotations

import argparse
import multiprocessing
from itertools import islice
from multiprocessing.connection import Connection
from pathlib import Path

import torch
from rich.table import Table

from pipelines import MAX_BAD, Sampling, TrainLoader
from preprocess.console import console
from preprocess.index import read_dataset
from v4d.resident_memory import resident


def memory_over(
    data: Path, sampling: Sampling, batch: int, batches: int, looks: int, device: str = "cpu", max_bad: float = MAX_BAD
) -> list[dict[str, float]]:
    """What ``resident`` says after each of ``looks`` equal parts of ``batches`` batches of the training split.

    Raises RuntimeError if the process ends before.
    """
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_load, args=(sender, data, sampling, batch, batches, looks, device, max_bad))
    process.start()
    sender.close()
    try:
        return [receiver.recv() for _ in range(looks)]
    except EOFError:
        raise RuntimeError("the loader's process ended before its last batch") from None
    finally:
        process.kill()
        process.join()


def _load(
    sender: Connection,
    data: Path,
    sampling: Sampling,
    batch: int,
    batches: int,
    looks: int,
    device: str,
    max_bad: float,
) -> None:
    loader = TrainLoader(
        read_dataset(data), "train", sampling, global_batch=batch, seed=0, device=torch.device(device), max_bad=max_bad
    )
    made = iter(loader)
    for _ in range(looks):
        for _ in islice(made, batches // looks):
            pass
        sender.send(resident())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="a preprocessed dataset")
    parser.add_argument("--batches", type=int, default=10_000)
    parser.add_argument("--batch", type=int, default=1, help="videos of a batch")
    parser.add_argument("--gpu", action="store_true")
    parser.add_argument("--max-bad", type=float, default=MAX_BAD)
    args = parser.parse_args()
    looks, device = 10, "cuda" if args.gpu else "cpu"
    sampling = Sampling(4, 4, 8, 224)
    found = memory_over(args.data, sampling, args.batch, args.batches, looks, device, args.max_bad)
    table = Table("batches", *(f"{kind}, MB" for kind in found[0]), title=f"{args.data}, batches of {args.batch}")
    for number, of in enumerate(found, 1):
        table.add_row(f"{number * (args.batches // looks):,}", *(f"{value:.1f}" for value in of.values()))
    console.print(table)


if __name__ == "__main__":
    main()
