"""Copies of a dataset with packets that are not what they were, and what loaders must make of them."""

import itertools
import shutil
from dataclasses import replace

import numpy as np
import torch

from pipelines import EvalLoader, Sampling, TrainLoader
from pipelines.samples import EvalSamples, TrainSamples
from preprocess.index import as_record_batch, packet_offsets, read_dataset, shard_name, write_index
from tests.preprocess.damage import flip

CPU = torch.device("cpu")
TAKE = Sampling(6, 3, 2, 64)


def copied(dataset, to):
    return read_dataset(shutil.copytree(dataset.root, to))


def place_of(dataset, split, number, frame):
    """The path of a packet's shard, and its first byte and size in it."""
    row = dataset.split(split)[number]
    begin = row.offset + int(packet_offsets(dataset.codec, row.packet_bytes)[frame])
    return dataset.root / split / shard_name(row.shard), begin, int(row.packet_bytes[frame])


def flip_bits(dataset, split, share, seed):
    """Turn a bit in this share of a split's packets, at least in one: {(row number, frame)} of them."""
    draw = np.random.default_rng(seed)
    packets = [(number, frame) for number, row in enumerate(dataset.split(split)) for frame in range(row.frames)]
    chosen = draw.choice(len(packets), max(1, round(share * len(packets))), replace=False)
    for number, frame in (packets[i] for i in chosen):
        shard, begin, size = place_of(dataset, split, number, frame)
        flip(shard, begin + int(draw.integers(size)), int(draw.integers(8)))
    return {packets[i] for i in chosen}


def rewrite_packets(dataset, split, packets, change):
    """Put other bytes, as many, in the place of ``packets``, with an index that has their CRC-32s."""
    from zlib import crc32

    rows = [replace(row, packet_crc32=row.packet_crc32.copy()) for row in dataset.split(split)]
    for number, frame in packets:
        shard, begin, size = place_of(dataset, split, number, frame)
        with open(shard, "r+b") as file:
            file.seek(begin)
            changed = change(file.read(size))
            assert len(changed) == size
            file.seek(begin)
            file.write(changed)
        rows[number].packet_crc32[frame] = crc32(changed)
    write_rows(dataset, split, rows)


def write_rows(dataset, split, rows):
    path = dataset.root / split / "index.arrow"
    write_index(path, [as_record_batch(rows)], dataset.split(split).metadata)


def is_bad(sample, packets):
    """Whether a sample needs one of ``packets``."""
    needed = set()
    for frame in sample.frames.tolist():
        needed.add(frame)
        while back := int(sample.row.packet_back[frame]):
            frame -= back
            needed.add(frame)
    return any((sample.row_number, frame) in packets for frame in needed)


def loaded(dataset, split, *, train, batch=4, epochs=2, ranks=1, max_bad=1.0, take=TAKE, device=CPU):
    """(crops, labels_B, rows_B, keys) of every global batch of a few epochs, and the loaders of the ranks."""
    loaders, parts = [], []
    for rank in range(ranks):
        options = {"global_batch": batch, "device": device, "rank": rank, "ranks": ranks, "max_bad": max_bad}
        if train:
            loader = TrainLoader(dataset, split, take, seed=5, **options)
            batches = list(itertools.islice(loader, epochs * loader.steps_per_epoch))
        else:
            loader = EvalLoader(dataset, split, take, **options)
            batches = [batch for _ in range(epochs) for batch in loader]
        loaders.append(loader)
        parts.append(batches)
    whole = []
    for shares in zip(*parts, strict=True):
        count = len(shares[0].rows_B)
        crops = [
            torch.cat([x.unflatten(0, (count, -1)) for x in of]) for of in zip(*(s.crops for s in shares), strict=True)
        ]
        labels, rows = (torch.cat([getattr(s, name) for s in shares]) for name in ("labels_B", "rows_B"))
        whole.append((torch.stack(crops, 1), labels, rows, [key for s in shares for key in s.keys]))
    return whole, loaders


def places(dataset, split, *, train, batch=4, epochs=2, take=TAKE):
    """The samples meant for each place of the same batches."""
    if train:
        plan = TrainSamples(dataset, split, take, batch, 5, 0, 1)
        steps = itertools.islice(plan.batches(0), epochs * plan.steps_per_epoch)
    else:
        plan = EvalSamples(dataset, split, take, batch, 3, 0, 1)
        steps = [step for _ in range(epochs) for step in plan.batches(0)]
    return [[plan.sample(place) for place in step] for step in steps]


def assert_bad_rows_only_are_masked(clean, damaged, split, packets, *, train, ranks=1, device=CPU, **options):
    """What needs one of ``packets`` is a row that does not count, and shows what is sound; all else is as it was.

    Returns the loaders, and the keys of the bad rows of each epoch.
    """
    plan = places(clean, split, train=train, **options)
    before, _ = loaded(clean, split, train=train, device=device, **options)
    after, loaders = loaded(damaged, split, train=train, ranks=ranks, device=device, **options)
    steps = len(plan) // options.get("epochs", 2)
    sound = [[], []]
    for step, (samples, (pictures, *_)) in enumerate(zip(plan, before, strict=True)):
        sound[step // steps] += [x for sample, x in zip(samples, pictures, strict=True) if not is_bad(sample, packets)]
    left_out = [[], []]
    for step, (samples, was, now) in enumerate(zip(plan, before, after, strict=True)):
        for at, sample in enumerate(samples):
            pictures, label, row, key = (of[at] for of in now)
            if not is_bad(sample, packets):
                assert torch.equal(pictures, was[0][at])
                assert (label, row, key) == (was[1][at], was[2][at], was[3][at])
                continue
            assert (label, row, key) == (-1, -1, "")
            assert any(torch.equal(pictures, x) for x in sound[step // steps])
            if sample.place.valid:
                left_out[step // steps].append(sample.row.key)
    return loaders, left_out
