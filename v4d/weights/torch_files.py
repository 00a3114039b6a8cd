"""State dicts in files of torch.save and of safetensors, read without running what they hold."""

from __future__ import annotations

import pickle
import re
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from preprocess.errors import DataError

# Where the checkpoints of PySlowFast and pytorchvideo, of mmaction2 and the V4D authors, and of others have theirs.
_WRAPPERS = ("model_state", "state_dict", "model")


class _PassedOver:
    """Stands for a number of numpy, or its type, in a checkpoint's other entries: nothing of numpy is run for it.

    numpy's own functions would be no safe choice: a file can give a type flags that are not its own.
    """

    def __init__(self, *_: object) -> None:
        pass

    def __setstate__(self, _: object) -> None:
        pass


# Checkpoints of mmengine have such numbers, as the best accuracy. torch knows what may stand for what by these names.
_PASSED_OVER: list[Any] = [
    type(name, (_PassedOver,), {"__module__": module})
    for module, name in (
        ("numpy", "dtype"),
        ("numpy._core.multiarray", "scalar"),
        ("numpy.core.multiarray", "scalar"),
    )
]


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """The state dict in a file of torch.save or safetensors, on the CPU, without the prefix of data parallelism.

    A checkpoint's other entries are left out. Raises DataError if the file is missing, damaged, holds no state dict,
    or can be read only by running code that it names, as Caffe2's pickles.
    """
    content = _load(path)
    for wrapper in _WRAPPERS:
        if isinstance(content, dict) and isinstance(content.get(wrapper), dict):
            content = content[wrapper]
            break
    if not isinstance(content, dict) or not content or not all(_is_weight(*item) for item in content.items()):
        raise DataError(f"{path} holds no state dict, which is tensors by name{_instead(content)}")
    scalars = [name for name, value in content.items() if not value.ndim and not name.endswith("num_batches_tracked")]
    if scalars:
        raise DataError(f"{path}: {scalars[0]} is a single number, not the weight of a network")
    prefix = "module." if all(name.startswith("module.") for name in content) else ""
    return {name.removeprefix(prefix): value for name, value in content.items()}


def _is_weight(name: Any, value: Any) -> bool:
    return isinstance(name, str) and isinstance(value, Tensor)


def _load(path: Path) -> Any:
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        with torch.serialization.safe_globals(_PASSED_OVER):
            return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise DataError(f"there is no file {path}") from None
    except pickle.UnpicklingError as error:
        named = re.search(r"GLOBAL ([\w.]+)", str(error))
        if named:
            raise DataError(
                f"{path} wants {named[1]} run to be read, which v4d does not: save its state dict"
            ) from None
        raise DataError(f"{path} is no file of torch.save") from None
    # Bytes that are no pickle end its reader in any of Python's errors.
    except Exception as error:
        first = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise DataError(f"{path} is damaged or no file of weights: {first}") from None


def _instead(content: Any) -> str:
    if isinstance(content, dict):
        return f", but {', '.join(map(str, list(content)[:5])) or 'nothing'}"
    return f", but a {type(content).__name__}"
