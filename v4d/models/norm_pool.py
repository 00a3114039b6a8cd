"""Batch norm, 1×3×3 max-pool of stride 2 and ReLU in one: the stem's largest tensor is read and written half as often.

As torch has it, the norm writes a tensor as large as its input, which ReLU and pool read, and their backward writes
two more. Here the forward reads the input twice (for the statistics, and for the pool) and writes a quarter of it, and
the backward reads it twice and writes its gradient.

Shape suffixes: F frames (of all units), H, W and their halves OH = ceil(H/2), OW, C channels.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn

_HAS_TRITON = find_spec("triton") is not None
_PROGRAMS, _ROWS, _COLUMNS = 1024, 128, 16


def can_join(x: Tensor, norm: nn.Module) -> bool:
    """Whether ``norm_pool`` can stand for ``norm`` and the pool: in training on a GPU, with one norm of its own.

    The norm is in float32, and ``x`` in no more.
    """
    # Of torch's own class: a synchronised norm talks to other processes.
    if not (x.is_cuda and norm.training and type(norm) is nn.BatchNorm3d and norm.affine and _HAS_TRITON):
        return False
    return norm.weight.dtype == torch.float32 and x.dtype != torch.float64


def norm_pool(x_FCHW: Tensor, norm: nn.BatchNorm3d) -> Tensor:
    """ReLU(max-pool(norm(x))) in training, (F, C, OH, OW) and channels-last; the norm's running statistics go on.

    ``x_FCHW`` is floating, and best channels-last; statistics are taken in float32. Gradients are those of the three
    one after the other: where several pixels of a window are the largest, the first gets it all.
    """
    y_FCHW, _, mean_C, variance_C = _forward(x_FCHW, norm.weight, norm.bias, norm.eps)
    # As torch's norm has it: with ``momentum`` None all batches count alike.
    share: float | Tensor = norm.momentum or 0.0
    if norm.num_batches_tracked is not None:
        norm.num_batches_tracked.add_(1)
        if norm.momentum is None:
            share = 1 / norm.num_batches_tracked
    if norm.running_mean is not None and norm.running_var is not None:
        count = x_FCHW.numel() // x_FCHW.shape[1]
        with torch.no_grad():
            norm.running_mean.lerp_(mean_C, share)
            norm.running_var.lerp_(variance_C * (count / max(count - 1, 1)), share)
    pooled_FCHW: Tensor = y_FCHW
    return pooled_FCHW


# Tensors go in and out as (F, C, H, W): torch.compile then leaves them in the layout of the convolution before.
@torch.library.custom_op("v4d::norm_pool", mutates_args=())
def _forward(x_FCHW: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    from v4d.models import norm_pool_kernels as kernels

    # Triton launches on the current device.
    with torch.cuda.device_of(x_FCHW):
        x_FHWC = _as_pixels(x_FCHW)
        frames, height, width, channels = x_FHWC.shape
        out_h, out_w = (height + 1) // 2, (width + 1) // 2
        mean_C, variance_C = _statistics(x_FHWC)
        scale_C = weight.float() * (variance_C + eps).rsqrt()
        shift_C = bias.float() - mean_C * scale_C
        y_FHWC = x_FHWC.new_empty((frames, out_h, out_w, channels))
        k_FHWC = x_FHWC.new_empty((frames, out_h, out_w, channels), dtype=torch.uint8)
        kernels.forward_kernel[_grid_of_rows(frames, out_h, out_w)](
            x_FHWC, scale_C, shift_C, y_FHWC, k_FHWC, height, width, out_h, out_w, channels, _COLUMNS, _power(channels)
        )
        return y_FHWC.permute(0, 3, 1, 2), k_FHWC, mean_C, variance_C


@torch.library.custom_op("v4d::norm_pool_backward", mutates_args=())
def _backward(
    dy_FCHW: Tensor, x_FCHW: Tensor, k_FHWC: Tensor, mean_C: Tensor, variance_C: Tensor, weight: Tensor, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    from v4d.models import norm_pool_kernels as kernels

    # Triton launches on the current device.
    with torch.cuda.device_of(x_FCHW):
        x_FHWC, dy_FHWC = _as_pixels(x_FCHW), _as_pixels(dy_FCHW)
        frames, height, width, channels = x_FHWC.shape
        out_h, out_w = dy_FHWC.shape[1:3]
        invstd_C = (variance_C + eps).rsqrt()
        rows, blocks = frames * out_h, -(-out_w // _COLUMNS)
        rows_each = -(-rows // _PROGRAMS)
        partial_P2C = x_FHWC.new_empty((-(-rows // rows_each), 2, channels), dtype=torch.float32)
        kernels.sums_kernel[(len(partial_P2C),)](
            *(x_FHWC, dy_FHWC, k_FHWC, mean_C, invstd_C, partial_P2C, rows, height, width, out_h, out_w, channels),
            *(rows_each, blocks, _COLUMNS, _power(channels)),
        )
        dbias_C, dweight_C = partial_P2C[:, 0].sum(dim=0), partial_P2C[:, 1].sum(dim=0)
        count = x_FHWC.numel() // channels
        dx_FHWC = torch.empty_like(x_FHWC)
        kernels.backward_kernel[_grid_of_rows(frames, out_h, out_w)](
            *(x_FHWC, dy_FHWC, k_FHWC, dx_FHWC, mean_C, invstd_C, weight.float() * invstd_C),
            *(dbias_C / count, dweight_C / count, height, width, out_h, out_w, channels, _COLUMNS, _power(channels)),
        )
        return dx_FHWC.permute(0, 3, 1, 2), dweight_C.to(weight.dtype), dbias_C.to(weight.dtype)


def _as_pixels(x_FCHW: Tensor) -> Tensor:
    return x_FCHW.permute(0, 2, 3, 1).contiguous()


def _statistics(x_FHWC: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and (biased) variance of each channel, (C,) float32."""
    from v4d.models import norm_pool_kernels as kernels

    channels = x_FHWC.shape[-1]
    rows = x_FHWC.numel() // channels
    tiles = -(-rows // (_PROGRAMS * _ROWS))
    programs = -(-rows // (tiles * _ROWS))
    partial_P2C = x_FHWC.new_empty((programs, 2, channels), dtype=torch.float32)
    kernels.statistics_kernel[(programs,)](x_FHWC, partial_P2C, rows, channels, tiles, _ROWS, _power(channels))
    mean_PC, squares_PC = partial_P2C.double().unbind(1)
    count_P1 = torch.full((programs, 1), tiles * _ROWS, dtype=torch.double, device=x_FHWC.device)
    count_P1[-1] = rows - tiles * _ROWS * (programs - 1)
    mean_C = (mean_PC * count_P1).sum(dim=0) / rows
    squares_C = squares_PC.sum(dim=0) + (count_P1 * (mean_PC - mean_C).square()).sum(dim=0)
    return mean_C.float(), (squares_C / rows).float()


def _grid_of_rows(frames: int, out_h: int, out_w: int) -> tuple[int, int]:
    return frames * out_h, -(-out_w // _COLUMNS)


def _power(channels: int) -> int:
    return 1 << (channels - 1).bit_length()


@_forward.register_fake
def _(x_FCHW: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    frames, channels, height, width = x_FCHW.shape
    size = (frames, (height + 1) // 2, (width + 1) // 2, channels)
    mean_C, variance_C = (x_FCHW.new_empty((channels,), dtype=torch.float32) for _ in range(2))
    k_FHWC = x_FCHW.new_empty(size, dtype=torch.uint8)
    return x_FCHW.new_empty(size).permute(0, 3, 1, 2), k_FHWC, mean_C, variance_C


@_backward.register_fake
def _(
    dy_FCHW: Tensor, x_FCHW: Tensor, k_FHWC: Tensor, mean_C: Tensor, variance_C: Tensor, weight: Tensor, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    dx_FHWC = torch.empty_like(x_FCHW.permute(0, 2, 3, 1), memory_format=torch.contiguous_format)
    return dx_FHWC.permute(0, 3, 1, 2), torch.empty_like(weight), torch.empty_like(weight)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    x_FCHW, weight, _, ctx.eps = inputs
    _, k_FHWC, mean_C, variance_C = output
    ctx.mark_non_differentiable(k_FHWC, mean_C, variance_C)
    ctx.save_for_backward(x_FCHW, k_FHWC, mean_C, variance_C, weight)


def _gradients(ctx: Any, dy_FCHW: Tensor, *_: Any) -> tuple[Tensor, Tensor, Tensor, None]:
    x_FCHW, k_FHWC, mean_C, variance_C, weight = ctx.saved_tensors
    return (*_backward(dy_FCHW, x_FCHW, k_FHWC, mean_C, variance_C, weight, ctx.eps), None)


_forward.register_autograd(_gradients, setup_context=_keep)
