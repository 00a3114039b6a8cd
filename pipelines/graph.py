"""The DALI graphs: packets in, pictures or crops out. One definition for the CPU and the GPU; nothing is drawn."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import torch
from nvidia.dali import Pipeline, fn, types
from nvidia.dali.tensors import TensorCPU, TensorListCPU

# One batch for a graph: lists of arrays, one for each sample, or an array that stands for such a list. They are
# not copied, and not to be written to.
GraphInput = tuple[Any, ...]


def as_pieces(arrays: Iterable[np.ndarray]) -> Any:
    """Arrays of different lengths as an input of a graph, in a third of the time that DALI takes from a list.

    It shares the arrays' memory, and keeps it.
    """
    # Not made one array, which would be a copy.
    contiguous = False
    return TensorListCPU([TensorCPU(array) for array in arrays], "", contiguous)


def picture_graph(
    source: Callable[[], GraphInput], *, codec: str, pieces: int, device: torch.device, threads: int, ahead: int
) -> Pipeline:
    """Build the graph that decodes up to ``pieces`` JPEGs or clip streams at a time.

    ``source`` is called for each batch, ``ahead`` of them in advance, and gives (JPEGs,), or (clip streams, the
    positions of the wanted frames in each): uint8 and int32, 1-D. The output is a picture (H, W, 3) for each JPEG, the
    wanted frames (frames, H, W, 3) for each stream, uint8 RGB on ``device``.

    Raises RuntimeError, as DALI does, from ``run()`` when a piece does not decode.
    """
    graph = _pipeline(pieces, device, threads, ahead)
    with graph:
        if codec == "mjpeg":
            (jpegs,) = _inputs(source, types.UINT8)
            graph.set_outputs(_decoded(jpegs, device))
        else:
            streams, positions = _inputs(source, types.UINT8, types.INT32)
            where = "mixed" if device.type == "cuda" else "cpu"
            graph.set_outputs(fn.decoders.video(streams, frames=positions, device=where))
    graph.build()
    return graph


def crop_graph(
    source: Callable[[], GraphInput],
    *,
    pieces: int,
    crops: int,
    crop: int,
    resize: bool,
    padded: bool,
    device: torch.device,
    threads: int,
    ahead: int,
) -> Pipeline:
    """Build the graph that decodes up to ``pieces`` JPEGs at a time and cuts ``crops`` squares of ``crop`` pixels.

    A JPEG may hold several pictures, one below the other. ``source`` is called for each batch, ``ahead`` of them in
    advance, and gives the packets, uint8; for each its shape as pictures (pictures, H, W, 3), int32; with ``padded``
    how many rows of these are to be seen, (1,) int32; and for each crop the upper left and the lower right corner
    (y, x), float32: each an array with a row for each piece. Pictures whose corners are swapped along x come out
    mirrored. ``resize=False`` says that every crop is ``crop`` pixels wide and high and none is mirrored: it is then
    cut out without a filter. The graph has ``crops`` outputs on ``device``, a piece of each being uint8, RGB, of shape
    (pictures, crop, crop, 3).

    Raises RuntimeError, as DALI does, from ``run()`` when a packet does not decode.
    """
    graph = _pipeline(pieces, device, threads, ahead)
    with graph:
        shown = [types.INT32] * padded
        packets, shapes, *more = _inputs(source, types.UINT8, types.INT32, *shown, *[types.FLOAT] * 2 * crops)
        pictures_FHWC = fn.reshape(_decoded(packets, device), shape=shapes, layout="FHWC")
        if padded:
            # A filter would read them at a crop's lower edge.
            pictures_FHWC = fn.slice(pictures_FHWC, start=[0], shape=more[0], axis_names="H")
        corners = more[padded:]
        outputs = []
        for start, end in zip(corners[::2], corners[1::2], strict=True):
            if resize:
                to_size = {"size": (crop, crop), "interp_type": types.INTERP_LINEAR}
                outputs.append(fn.resize(pictures_FHWC, roi_start=start, roi_end=end, **to_size))
            else:
                region = {"start": fn.cast(start, dtype=types.INT32), "end": fn.cast(end, dtype=types.INT32)}
                outputs.append(fn.slice(pictures_FHWC, axis_names="HW", **region))
        graph.set_outputs(*outputs)
    graph.build()
    return graph


def _pipeline(samples: int, device: torch.device, threads: int, ahead: int) -> Pipeline:
    return Pipeline(
        batch_size=samples,
        num_threads=threads,
        device_id=(device.index or 0) if device.type == "cuda" else None,
        prefetch_queue_depth=ahead,
    )


def _inputs(source: Callable[[], GraphInput], *dtypes: Any) -> Sequence[Any]:
    return fn.external_source(
        source=source, num_outputs=len(dtypes), dtype=list(dtypes), ndim=1, batch=True, no_copy=True
    )


def _decoded(jpegs: Any, device: torch.device) -> Any:
    if device.type == "cpu":
        return fn.decoders.image(jpegs, output_type=types.RGB, device="cpu")
    # All pictures to the JPEG engine, which spares the CPU. And no thread of its own tied to a core: those of the other
    # processes of the machine would be tied to the same.
    return fn.decoders.image(jpegs, output_type=types.RGB, device="mixed", hw_decoder_load=1.0, affine=False)


def dali_reason(error: Exception) -> str:
    """DALI's own reason of an error, without where in a graph and in its code it arose."""
    told = str(error).partition("encountered:")[2] or str(error)
    return next((line.strip() for line in told.splitlines() if line.strip()), "no reason is given").rstrip(":")[:200]
