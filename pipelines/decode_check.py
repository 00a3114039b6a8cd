"""Does every frame of a dataset decode? What the decoders of training say, video by video."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import torch
from nvidia.dali import Pipeline, fn, types

from pipelines.graph import dali_reason
from preprocess.errors import DataError, UsageError, V4dError
from preprocess.index import IVF_HEADER, IVF_PACKET_HEADER, Dataset, Index, VideoRow, packet_offsets, shard_name

_BYTES_AT_ONCE = 256 << 20
_PIECES_AT_ONCE = 64
_FAILURES_BEFORE_ONE_BY_ONE = 3


# Videos, each as its split and its row in the index.
_Group = list[tuple[str, int]]


@dataclass(frozen=True)
class Undecodable:
    """Frames that do not decode as the index says: where they are, the first of them, and what is wrong."""

    split: str
    shard: int
    key: str
    frame: int
    what: str


@dataclass(frozen=True)
class _Piece:
    """Something to decode in one go: one JPEG, or the packets from a keyframe on; and the shape it should have."""

    split: str
    row: VideoRow
    frame: int
    data: np.ndarray
    shape: tuple[int, ...]


def decode_faults(
    dataset: Dataset, threads: int | None = None, on_video: Callable[[int], None] = lambda done: None
) -> Iterator[Undecodable]:
    """Decode every packet of a dataset, and yield what does not decode to a frame of its size.

    ``on_video`` is called with the number of videos read so far. Changed pixels are not seen: the packets' CRC-32s
    are to be checked first. Nor is a video packet that shows no frame: the decoder believes the count it is told.
    Raises UsageError for H.264 without a GPU, DataError if a shard cannot be read.
    """
    if dataset.codec == "h264" and not torch.cuda.is_available():
        raise UsageError(f"{dataset.root} is H.264, which only a GPU decodes here: leave --deep out, or use a GPU")
    _index.cache_clear()
    _shard.cache_clear()
    groups = list(_groups(dataset))
    done = failures = 0
    while done < len(groups):
        if failures < _FAILURES_BEFORE_ONE_BY_ONE:
            for faults in _decoded_by_child(dataset, groups[done:], threads or min(8, os.cpu_count() or 1)):
                yield from faults
                done += 1
                on_video(sum(map(len, groups[:done])))
        if done < len(groups):
            # Here the child ended.
            yield from _one_by_one(dataset, groups[done])
            done, failures = done + 1, failures + 1
            on_video(sum(map(len, groups[:done])))


def _one_by_one(dataset: Dataset, group: _Group) -> Iterator[Undecodable]:
    graph = _decoding_graph(dataset.codec, 1, 1)
    for piece in _pieces(dataset, group):
        try:
            yield from _check([piece], graph)
        except RuntimeError as error:
            graph = _decoding_graph(dataset.codec, 1, 1)
            yield _fault(piece, f"does not decode: {dali_reason(error)}")


def _decoded_by_child(dataset: Dataset, groups: list[_Group], threads: int) -> Iterator[list[Undecodable]]:
    """What a process of its own finds in each group of videos, up to the last one or to its own end.

    Where one picture of a batch does not decode, DALI 2.4 names nobody, and more often than not it ends the process
    with a segmentation fault.
    """
    context = get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=_decode_groups, args=(dataset, groups, threads, sender), daemon=True)
    child.start()
    sender.close()
    try:
        while True:
            try:
                yield receiver.recv()
            except EOFError:
                return
    finally:
        child.kill()
        child.join()


def _decode_groups(dataset: Dataset, groups: list[_Group], threads: int, sender: Connection) -> None:
    # Ctrl-C is the main process's to hear.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    graph = _decoding_graph(dataset.codec, _PIECES_AT_ONCE, threads)
    try:
        for group in groups:
            sender.send([fault for batch in _batches(_pieces(dataset, group)) for fault in _check(batch, graph)])
    except (RuntimeError, V4dError, OSError):
        # The main process finds out why. At once: to take the graph down is what is not survived.
        os._exit(1)


def _groups(dataset: Dataset) -> Iterator[_Group]:
    """Videos in a row that fill a batch together; mostly one."""
    group: _Group = []
    pieces = size = 0
    for split in dataset.splits:
        index = dataset.split(split)
        shapes = zip(*(index.column(name) for name in ("frames", "width", "height")), strict=True)
        for number, (frames, width, height) in enumerate(shapes):
            group.append((split, number))
            pieces += frames if dataset.codec == "mjpeg" else 1
            size += frames * width * height * 3
            if pieces >= _PIECES_AT_ONCE or size >= _BYTES_AT_ONCE:
                yield group
                group, pieces, size = [], 0, 0
    if group:
        yield group


def _pieces(dataset: Dataset, group: _Group) -> Iterator[_Piece]:
    for split, number in group:
        index = _index(dataset.root, split)
        row = index[number]
        member = _shard(index.path.parent / shard_name(row.shard))[row.offset : row.offset + row.size]
        yield from (_jpegs if dataset.codec == "mjpeg" else _streams)(split, row, member)


def _batches(pieces: Iterator[_Piece]) -> Iterator[list[_Piece]]:
    batch: list[_Piece] = []
    size = 0
    for piece in pieces:
        size += int(np.prod(piece.shape))
        if batch and (len(batch) == _PIECES_AT_ONCE or size > _BYTES_AT_ONCE):
            yield batch
            batch, size = [], int(np.prod(piece.shape))
        batch.append(piece)
    if batch:
        yield batch


def _jpegs(split: str, row: VideoRow, member: np.ndarray) -> Iterator[_Piece]:
    begins = packet_offsets("mjpeg", row.packet_bytes)
    ends = begins + row.packet_bytes
    for frame, (begin, end) in enumerate(zip(begins.tolist(), ends.tolist(), strict=True)):
        yield _Piece(split, row, frame, member[begin:end], (row.height, row.width, 3))


def _streams(split: str, row: VideoRow, member: np.ndarray) -> Iterator[_Piece]:
    """A member cut before keyframes, each part behind the member's header: a long video would not fit in memory."""
    begins = packet_offsets("vp9", row.packet_bytes)
    ends = begins + row.packet_bytes
    begins -= IVF_PACKET_HEADER
    most = max(1, _BYTES_AT_ONCE // (row.width * row.height * 3))
    first = 0
    keyframes = [*np.flatnonzero(row.packet_back == 0).tolist(), row.frames]
    for keyframe, after in zip(keyframes, [*keyframes[1:], None], strict=True):
        if keyframe > first and (after is None or after - first > most):
            # The decoder believes the header's count of frames.
            count = np.frombuffer(np.uint32(keyframe - first).tobytes(), np.uint8)
            header = np.concatenate([member[:24], count, member[28:IVF_HEADER]])
            data = np.concatenate([header, member[begins[first] : ends[keyframe - 1]]])
            yield _Piece(split, row, first, data, (keyframe - first, row.height, row.width, 3))
            first = keyframe


@lru_cache(maxsize=8)
def _index(root: Path, split: str) -> Index:
    return Index(root / split / "index.arrow")


@lru_cache(maxsize=2)
def _shard(path: Path) -> np.ndarray:
    try:
        return np.memmap(path, np.uint8, "r")
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read ({error}): restore that file, or preprocess again") from None


def _decoding_graph(codec: str, pieces: int, threads: int) -> Pipeline:
    """A graph that decodes up to so many pieces at a time."""
    gpu = codec == "h264"
    graph = Pipeline(
        batch_size=pieces,
        num_threads=threads,
        device_id=0 if gpu else None,
        prefetch_queue_depth=1,
        exec_async=False,
        exec_pipelined=False,
    )
    with graph:
        data = fn.external_source(name="data", dtype=types.UINT8, ndim=1)
        if codec == "mjpeg":
            graph.set_outputs(fn.decoders.image(data, device="cpu", output_type=types.RGB))
        else:
            graph.set_outputs(fn.decoders.video(data, device="mixed" if gpu else "cpu"))
    graph.build()
    return graph


def _check(batch: list[_Piece], graph: Pipeline) -> list[Undecodable]:
    """Pieces that decode, but not to their shape. Raises RuntimeError, as DALI does, if one does not decode."""
    graph.feed_input("data", [piece.data for piece in batch])
    (output,) = graph.run()
    return [
        _fault(piece, f"decodes to {_said(shape)}, not {_said(piece.shape)}")
        for piece, shape in zip(batch, map(tuple, output.shape()), strict=True)
        if shape != piece.shape
    ]


def _fault(piece: _Piece, what: str) -> Undecodable:
    return Undecodable(piece.split, piece.row.shard, piece.row.key, piece.frame, what)


def _said(shape: tuple[int, ...]) -> str:
    size = f"{shape[-2]}x{shape[-3]}"
    return size if len(shape) == 3 else f"{shape[0]} frames of {size}"
