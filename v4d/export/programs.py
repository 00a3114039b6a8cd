"""Exported programs as files, each compared with the network itself before it gets its name.

Shape suffixes: B videos, U action units, T frames of a unit, H, W, C colours, K classes.
"""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from preprocess.durable_files import replace_atomically
from preprocess.errors import DataError, UsageError
from preprocess.index import Dataset
from v4d.export.served import BATCH, INPUT, OUTPUT, ServedNetwork, description, input_shape
from v4d.inference import Activation
from v4d.trained import Trained

Format = Literal["torch", "onnx"]
# The name of the description: an extra file of a program, an entry of a model's metadata.
DESCRIPTION = "v4d.json"
# Largest difference between a score of the program and the network's own: this much, and this share of the score.
TOLERANCE = 1e-4
# Of the trace, and of the comparison: another one, that the program is not for one size of batch.
_TRACED, _COMPARED = 2, 3
_ONNX_PACKAGES = ("onnx", "onnxscript", "onnxruntime")


def export_program(
    trained: Trained,
    out: Path,
    *,
    kind: Format,
    units_infer: int | None = None,
    activation: Activation | None = None,
    dataset: Dataset | None = None,
) -> float:
    """Write ``trained`` as a program of torch.export or ONNX that takes any number of videos, in float32.

    Input and output are those of ``ServedNetwork.forward``; ``description`` lies in the file as JSON. ``units_infer``
    are the units of a video, by default those in training; ``activation`` is by default that of the recipe's loss;
    ``dataset`` is the one whose frames the network knows.

    The file is read again and run on noise, on the CPU, before it is put under its name. Returns the largest difference
    from the network's own scores. Raises DataError, and writes nothing, if one is above ``TOLERANCE``; UsageError for
    units that cannot be, and where the packages for ONNX are missing; OSError.
    """
    if kind == "onnx":
        _see_that_onnx_is_installed()
    units_infer = units_infer or trained.recipe.data.units
    activation = activation or trained.recipe.train.loss
    served = ServedNetwork(trained, units_infer, activation)
    about = json.dumps(description(trained, units_infer, activation, dataset), ensure_ascii=False)
    shape = input_shape(trained, units_infer)
    with torch.no_grad():
        program = torch.export.export(
            served, (_noise(_TRACED, shape),), dynamic_shapes=({0: torch.export.Dim(BATCH, min=1)},), strict=False
        )
    with replace_atomically(out) as temporary:
        run = _write_torch(program, temporary, about) if kind == "torch" else _write_onnx(program, temporary, about)
        return _largest_difference(served, run, shape, out)


def _write_torch(program: torch.export.ExportedProgram, path: Path, about: str) -> Callable[[Tensor], np.ndarray]:
    # By a name it wants a suffix, which the temporary file has not.
    with open(path, "wb") as written:
        torch.export.save(program, written, extra_files={DESCRIPTION: about})
    with open(path, "rb") as file:
        module = torch.export.load(file).module()

    def run(x_BUTHWC: Tensor) -> np.ndarray:
        scores_BK: Tensor = module(x_BUTHWC)
        return scores_BK.numpy()

    return run


def _write_onnx(program: torch.export.ExportedProgram, path: Path, about: str) -> Callable[[Tensor], np.ndarray]:
    import onnxruntime

    with _quiet():
        written = torch.onnx.export(
            program,
            dynamo=True,
            input_names=[INPUT],
            output_names=[OUTPUT],
            dynamic_shapes=({0: BATCH},),
            verbose=False,
        )
    assert written is not None
    written.model.metadata_props[DESCRIPTION] = about
    path.write_bytes(written.model_proto.SerializeToString())
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

    def run(x_BUTHWC: Tensor) -> np.ndarray:
        scores_BK: np.ndarray = session.run([OUTPUT], {INPUT: x_BUTHWC.numpy()})[0]
        return scores_BK

    return run


@torch.no_grad()
def _largest_difference(
    served: ServedNetwork, run: Callable[[Tensor], np.ndarray], shape: tuple[int, ...], out: Path
) -> float:
    largest = 0.0
    for videos in (1, _COMPARED):
        x_BUTHWC = _noise(videos, shape, seed=videos)
        theirs_BK, ours_BK = run(x_BUTHWC), served(x_BUTHWC).numpy()
        if theirs_BK.shape != ours_BK.shape:
            raise DataError(f"{out} is not written: it gives scores {theirs_BK.shape}, the network {ours_BK.shape}")
        apart_BK = np.abs(theirs_BK - ours_BK)
        if not (apart_BK <= TOLERANCE * (1 + np.abs(ours_BK))).all():
            raise DataError(
                f"{out} is not written: its scores differ from the network's by up to {apart_BK.max():.2g}, more than "
                f"{TOLERANCE:g}"
            )
        largest = max(largest, float(apart_BK.max()))
    return largest


def _noise(videos: int, shape: tuple[int, ...], seed: int = 0) -> Tensor:
    draws = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (videos, *shape), dtype=torch.uint8, generator=draws)


def _see_that_onnx_is_installed() -> None:
    for name in _ONNX_PACKAGES:
        try:
            import_module(name)
        except ImportError:
            raise UsageError(
                f"--format onnx needs the package {name}: pip install {' '.join(_ONNX_PACKAGES)}, or the extra export"
            ) from None


@contextmanager
def _quiet() -> Iterator[None]:
    """Of its operators the exporter says at each start that those of another package are missing."""
    log = logging.getLogger("torch.onnx._internal.exporter._registration")
    level: Any = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(level)
