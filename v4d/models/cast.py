"""4D blocks for any 3D CNN.

Shape suffixes: B videos, U action units, N = B·U, C channels, T frames of a unit, H, W, K scores or features.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Sequence
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functional_call

from v4d.config import BlockKind, nearest
from v4d.models.block_kinds import make_block
from v4d.models.conv4d import Kernel4d
from v4d.models.units import InterUnitBlock, check_units


class Cast4d(nn.Module):
    """A 3D CNN, ``model``, some of whose layers are followed by blocks that relate the units of a video.

    ``blocks_4d`` holds the blocks by the names of those layers, with a slash for each dot. The state dict of ``model``
    is that of the 3D CNN, name by name, so that its checkpoints load into it.
    """

    def __init__(self, model: nn.Module, blocks_4d: dict[str, InterUnitBlock], num_units: int) -> None:
        super().__init__()
        self.model, self.num_units = model, num_units
        self.blocks_4d = nn.ModuleDict({name.replace(".", "/"): block for name, block in blocks_4d.items()})
        self.training = model.training
        self.blocks_4d.train(model.training)
        for name, block in blocks_4d.items():
            model.get_submodule(name).register_forward_hook(_Follow(block, num_units))

    def forward(self, x_NCTHW: Tensor) -> Tensor:
        """The mean over units of what the 3D CNN gives, (B, K). Raises ValueError if num_units do not divide N."""
        check_units(x_NCTHW, self.num_units)
        scores_NK = self.model(x_NCTHW)
        scores_BK: Tensor = scores_NK.unflatten(0, (-1, self.num_units)).mean(dim=1)
        return scores_BK


class _Follow:
    """A forward hook that puts a block after a layer. An object, so that copies and pickles of the network keep it."""

    def __init__(self, block: InterUnitBlock, units: int) -> None:
        self.block, self.units = block, units

    def __call__(self, layer: nn.Module, inputs: tuple[Any, ...], output_NCTHW: Tensor) -> Tensor:
        followed_NCTHW: Tensor = self.block(output_NCTHW, self.units)
        return followed_NCTHW


def cast_to_4d(
    model: nn.Module,
    layers: Sequence[str],
    num_units: int,
    *,
    kernel: Kernel4d = (3, 3, 1, 1),
    norm_init: float = 0.0,
    input_size: tuple[int, int, int, int] = (3, 8, 224, 224),
    activation: bool = False,
    block: BlockKind = "conv4d",
) -> Cast4d:
    """A copy of a 3D CNN with a residual 4D block after each of ``layers`` (section 3.2 of the paper).

    ``model`` takes (N, C, T, H, W) and gives (N, K), scores or features; N = B·num_units, a video's units in a row.
    ``layers`` are names as ``model.named_modules()`` has them, of layers whose output is (N, C, T, H, W) with any C, T,
    H, W. The result takes what ``model`` takes and gives (B, K), and with ``norm_init`` at 0 it begins as ``model``
    averaged over units: Y = X + BN(conv4d(X)), where BN's weight is ``norm_init``. With ``activation`` a ReLU follows,
    which keeps that only where X is not negative. ``block`` "nonlocal" or "cgnl" takes those blocks in place of 4D
    ones. ``input_size``, (C, T, H, W) of a unit, is run through the network without computing, to find the channels.

    Raises ValueError for num_units below 1, a ``kernel`` that is not four odd extents, an unknown ``block``, a name
    that is not there (with the nearest one) or comes twice, a layer that is not run or gives something else than 5
    dimensions of N, an ``input_size`` that the network does not take, and a network that does not give (N, K).
    """
    names = [layers] if isinstance(layers, str) else list(layers)
    if num_units < 1:
        raise ValueError(f"num_units must be 1 or more, not {num_units}")
    known = [name for name, _ in model.named_modules() if name]
    for name in names:
        if name not in known:
            raise ValueError(f"the network has no layer '{name}'{nearest(name, known)}")
        if names.count(name) > 1:
            raise ValueError(f"layers has '{name}' {names.count(name)} times")
    model = copy.deepcopy(model)
    outputs = _outputs(model, names, num_units, input_size)
    blocks = {}
    for name in names:
        found = make_block(block, outputs[name].shape[1], kernel, norm_init, activation=activation)
        blocks[name] = found.to(outputs[name].device, outputs[name].dtype)
    return Cast4d(model, blocks, num_units)


def _outputs(model: nn.Module, names: list[str], units: int, input_size: tuple[int, ...]) -> dict[str, Tensor]:
    """What each of the layers gives for the units of one video, without values."""
    found: dict[str, Any] = {}
    hooks = [
        model.get_submodule(name).register_forward_hook(lambda *called, name=name: found.update({name: called[2]}))
        for name in names
    ]
    was_training = [module for module in model.modules() if module.training]
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    tensors = chain(model.named_parameters(), model.named_buffers())
    fake: dict[str, Tensor] = {name: mode.from_tensor(tensor) for name, tensor in tensors}
    example = next((tensor for tensor in fake.values() if tensor.is_floating_point()), torch.empty(0))
    # What fails is said by the error below, without the pages of its log.
    log = logging.getLogger(FakeTensorMode.__module__)
    log_disabled, log.disabled = log.disabled, True
    try:
        with mode, torch.no_grad():
            x = torch.empty(units, *input_size, device=example.device, dtype=example.dtype)
            scores = functional_call(model.eval(), fake, (x,))
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(f"the network does not take input_size={tuple(input_size)}: {reason}") from error
    finally:
        log.disabled = log_disabled
        for hook in hooks:
            hook.remove()
        for module in was_training:
            module.training = True
    for name in names:
        if name not in found:
            raise ValueError(f"layer '{name}' is not run by the network's forward")
        _check_output(f"layer '{name}'", found[name], 5, units)
    _check_output("the network", scores, 2, units)
    return found


def _check_output(of: str, output: object, dimensions: int, units: int) -> None:
    if not isinstance(output, Tensor):
        raise ValueError(f"{of} gives {type(output).__name__}, not a tensor of {dimensions} dimensions")
    if output.ndim != dimensions or output.shape[0] != units:
        raise ValueError(
            f"{of} gives {tuple(output.shape)} for {units} units, not {dimensions} dimensions that begin with {units}"
        )
