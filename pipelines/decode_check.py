"""Does every frame of a dataset decode? What the decoders of training say, video by video."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue

import numpy as np
import torch
from nvidia.dali import Pipeline, fn, types

from preprocess.errors import DataError, UsageError
from preprocess.index import Dataset, Index, VideoRow, shard_name

_BYTES_AT_ONCE = 64 << 20
_PIECES_AHEAD = 4
_IVF_HEADER, _IVF_PACKET_HEADER = 32, 12


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
    threads = threads or min(8, os.cpu_count() or 1)
    graphs: SimpleQueue[Pipeline] = SimpleQueue()
    for _ in range(threads):
        graphs.put(_decoding_graph(dataset.codec))
    waiting: deque[Future[Undecodable | None]] = deque()
    with ThreadPoolExecutor(threads, "decode") as executor:
        try:
            for piece in _pieces(dataset, on_video):
                waiting.append(executor.submit(_check, piece, graphs, dataset.codec))
                if len(waiting) == _PIECES_AHEAD * threads and (fault := waiting.popleft().result()):
                    yield fault
            yield from filter(None, (future.result() for future in waiting))
        finally:
            executor.shutdown(wait=True, cancel_futures=True)


def _pieces(dataset: Dataset, on_video: Callable[[int], None]) -> Iterator[_Piece]:
    done = 0
    for split in dataset.splits:
        index = dataset.split(split)
        shard, number = np.empty(0, np.uint8), -1
        for row in index:
            if row.shard != number:
                shard, number = _open(index, row.shard), row.shard
            member = shard[row.offset : row.offset + row.size]
            yield from (_jpegs if dataset.codec == "mjpeg" else _streams)(split, row, member)
            done += 1
            on_video(done)


def _jpegs(split: str, row: VideoRow, member: np.ndarray) -> Iterator[_Piece]:
    ends = np.cumsum(row.packet_bytes, dtype=np.int64)
    begins = ends - row.packet_bytes
    for frame, (begin, end) in enumerate(zip(begins.tolist(), ends.tolist(), strict=True)):
        yield _Piece(split, row, frame, member[begin:end], (row.height, row.width, 3))


def _streams(split: str, row: VideoRow, member: np.ndarray) -> Iterator[_Piece]:
    """A member cut before keyframes, each part behind the member's header: a long video would not fit in memory."""
    ends = _IVF_HEADER + np.cumsum(row.packet_bytes + np.int64(_IVF_PACKET_HEADER))
    begins = ends - row.packet_bytes - _IVF_PACKET_HEADER
    most = max(1, _BYTES_AT_ONCE // (row.width * row.height * 3))
    first = 0
    keyframes = [*np.flatnonzero(row.packet_back == 0).tolist(), row.frames]
    for keyframe, after in zip(keyframes, [*keyframes[1:], None], strict=True):
        if keyframe > first and (after is None or after - first > most):
            # The decoder believes the header's count of frames.
            count = np.frombuffer(np.uint32(keyframe - first).tobytes(), np.uint8)
            header = np.concatenate([member[:24], count, member[28:_IVF_HEADER]])
            data = np.concatenate([header, member[begins[first] : ends[keyframe - 1]]])
            yield _Piece(split, row, first, data, (keyframe - first, row.height, row.width, 3))
            first = keyframe


def _open(index: Index, shard: int) -> np.ndarray:
    path: Path = index.path.parent / shard_name(shard)
    try:
        return np.memmap(path, np.uint8, "r")
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read ({error}): restore that file, or preprocess again") from None


def _decoding_graph(codec: str) -> Pipeline:
    """A graph that decodes one piece at a time.

    Where one of several does not decode, DALI 2.4 names nobody, and more often than not ends the process with a
    segmentation fault.
    """
    gpu = codec == "h264"
    graph = Pipeline(
        batch_size=1,
        num_threads=1,
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


def _check(piece: _Piece, graphs: SimpleQueue[Pipeline], codec: str) -> Undecodable | None:
    """Decode a piece with one of the graphs. What is wrong with it, if anything is."""
    graph = graphs.get()
    try:
        graph.feed_input("data", [piece.data])
        (output,) = graph.run()
        shape = tuple(output.shape()[0])
    except RuntimeError as error:
        graph = _decoding_graph(codec)
        return _fault(piece, f"does not decode: {_reason(error)}")
    finally:
        graphs.put(graph)
    return None if shape == piece.shape else _fault(piece, f"decodes to {_said(shape)}, not {_said(piece.shape)}")


def _fault(piece: _Piece, what: str) -> Undecodable:
    return Undecodable(piece.split, piece.row.shard, piece.row.key, piece.frame, what)


def _said(shape: tuple[int, ...]) -> str:
    size = f"{shape[-2]}x{shape[-3]}"
    return size if len(shape) == 3 else f"{shape[0]} frames of {size}"


def _reason(error: RuntimeError) -> str:
    """DALI's own reason, without where in a graph and in its code it arose."""
    told = str(error).partition("encountered:")[2] or str(error)
    return next((line.strip() for line in told.splitlines() if line.strip()), "no reason is given")[:200]
