"""Weights files: a network in one safetensors file, with all that it takes to build and use it, and no code.

The header's metadata has a JSON document under the key "v4d", which is a WeightsInfo; the tensors have the names of
the network's state dict. Format: https://huggingface.co/docs/safetensors
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from preprocess.durable_files import replace_atomically
from preprocess.errors import DataError
from preprocess.index import VERSION
from v4d.config import DataConfig, Loss, ModelConfig
from v4d.models.network import V4D

# What tells a weights file from a checkpoint, and from other programs' files, where a command takes either.
SUFFIX = ".safetensors"
_KEY = "v4d"


class WeightsInfo(BaseModel):
    """What a weights file says about its network.

    ``classes`` are names in the order of the scores, or empty where nobody knows them. ``data`` is what the network is
    to be fed: units, frames, stride, crops. ``loss`` is what its scores are of: "softmax" where a video is of one
    class, "sigmoid" where it may be of several; a file that does not note it, of an older v4d, is taken for the former.
    ``source`` is where the weights come from, ``version`` the v4d that wrote them.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal[1] = 1
    version: str = VERSION
    model: ModelConfig
    num_classes: int = Field(ge=1)
    classes: tuple[str, ...] = ()
    data: DataConfig
    loss: Loss = "softmax"
    source: str = ""

    @model_validator(mode="after")
    def _check(self) -> WeightsInfo:
        if self.classes and len(self.classes) != self.num_classes:
            raise ValueError(f"{len(self.classes)} names for {self.num_classes} classes")
        return self


def save_weights(
    path: Path | str,
    model: V4D,
    classes: Sequence[str],
    data: DataConfig,
    source: str = "",
    *,
    loss: Loss = "softmax",
) -> None:
    """Write ``model`` to a weights file; ``path`` holds the old file or the new one, never a part.

    ``classes`` may be empty; for ``data``, ``source`` and ``loss`` see WeightsInfo. Raises DataError if the classes are
    not as many as the network's, and OSError.
    """
    path = Path(path)
    if classes and len(classes) != model.num_classes:
        raise DataError(f"{path}: {len(classes)} names of classes for a network of {model.num_classes}")
    info = WeightsInfo(
        model=model.config, num_classes=model.num_classes, classes=tuple(classes), data=data, loss=loss, source=source
    )
    write_weights(path, model.state_dict(), info)


def write_weights(path: Path, tensors: Mapping[str, Tensor], info: WeightsInfo) -> None:
    """Write the state dict of the network that ``info`` tells of, as ``save_weights`` does. Raises OSError."""
    # Channels-last weights are written in the default layout, which is the only one the format knows.
    plain = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    content = save(plain, metadata={"format": "pt", _KEY: info.model_dump_json()})
    with replace_atomically(path) as temporary:
        # Its own way to write a file leaves it to the owner alone.
        temporary.write_bytes(content)


def read_weights_info(path: Path | str) -> WeightsInfo:
    """What a weights file says about itself, from its header alone. Raises DataError if it is not one."""
    path = Path(path)
    with _opened(path) as file:
        return _info(file, path)


def read_weights(path: Path) -> tuple[WeightsInfo, dict[str, Tensor]]:
    """A weights file's header and tensors, on the CPU. Raises DataError if it is damaged or not one."""
    with _opened(path) as file:
        return _info(file, path), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping


def load_pretrained(path: Path | str) -> V4D:
    """The network of a weights file, on the CPU and in eval mode; ``classes`` of it names the scores.

    Nothing but the file is needed, and no code of it is run. Raises DataError if it is missing, damaged or not one.
    """
    path = Path(path)
    info, tensors = read_weights(path)
    model = _without_memory(info, path)
    expected = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    found = {name: tuple(value.shape) for name, value in tensors.items()}
    for name in sorted(expected.keys() | found.keys()):
        if expected.get(name) != found.get(name):
            there, here = found.get(name, "missing"), expected.get(name, "no such weight")
            raise DataError(f"{path} is not what its header says: {name} is {there} there and {here} in the network")
    model.to_empty(device="cpu")
    # All that a state dict leaves out.
    for name, values in (("mean", info.model.mean), ("std", info.model.std)):
        model.get_buffer(name).copy_(torch.tensor(values).view(1, 3, 1, 1, 1))
    model.load_state_dict(tensors)
    model.classes = info.classes
    return model.eval()


def _without_memory(info: WeightsInfo, path: Path) -> V4D:
    """The network that a header tells of, with shapes alone: a header may lie, and a lie should cost nothing."""
    try:
        with torch.device("meta"):
            return V4D(info.model, info.num_classes)
    # Sizes that no tensor can have.
    except (RuntimeError, OverflowError, TypeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise DataError(f"{path} is not what its header says, which no network can be: {reason}") from None


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    if path.is_dir():
        raise DataError(f"{path} is a folder: name a weights file")
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except FileNotFoundError:
        raise DataError(f"there is no weights file {path}") from None
    except (SafetensorError, OSError) as error:
        raise DataError(f"{path} is damaged or no safetensors file: {error}") from None


def _info(file: Any, path: Path) -> WeightsInfo:
    said = (file.metadata() or {}).get(_KEY)
    if said is None:
        raise DataError(f"{path} is a safetensors file of another program: it says nothing of a v4d network")
    try:
        return WeightsInfo.model_validate_json(said)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise DataError(f"{path} is of another version of v4d: {place}: {first['msg']}") from None
