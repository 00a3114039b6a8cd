"""Triton kernels of the stem's norm and pool, forward and backward: each reads and writes every value once.

A pixel row is (frame, h, w). The tensors are (F, H, W, C) in memory, pooled ones (F, OH, OW, C) with OH = ceil(H/2).
``k``, 0 to 8, says which pixel of a window of 3×3 was the largest, row by row; 9 says that ReLU let nothing through.
"""

from __future__ import annotations

import triton
import triton.language as tl

NOTHING_THROUGH = 9
_NOTHING = tl.constexpr(NOTHING_THROUGH)


@triton.jit
def statistics_kernel(x, partial, rows, channels, TILES: tl.constexpr, ROWS: tl.constexpr, CHANNELS: tl.constexpr):
    """Mean and sum of squared differences to it of a run of pixel rows: ``partial`` (programs, 2, C) float32.

    Tiles are merged by Chan's formula, which loses nothing where means are large beside deviations.
    """
    program = tl.program_id(0)
    c = tl.arange(0, CHANNELS)
    mean = tl.zeros((CHANNELS,), tl.float32)
    squares = tl.zeros((CHANNELS,), tl.float32)
    seen = 0.0
    for tile_number in range(TILES):
        first = (program.to(tl.int64) * TILES + tile_number) * ROWS
        row = first + tl.arange(0, ROWS)
        there = (row < rows)[:, None] & (c < channels)[None, :]
        tile = tl.load(x + row[:, None] * channels + c[None, :], mask=there, other=0.0).to(tl.float32)
        count = tl.maximum(tl.minimum(rows - first, ROWS), 0).to(tl.float32)
        tile_mean = tl.sum(tile, axis=0) / tl.maximum(count, 1.0)
        apart = tl.where(there, tile - tile_mean[None, :], 0.0)
        delta = tile_mean - mean
        total = seen + count
        squares += tl.sum(apart * apart, axis=0) + delta * delta * (seen * count / total)
        mean += delta * (count / total)
        seen = total
    out = partial + program * 2 * channels + c
    tl.store(out, mean, mask=c < channels)
    tl.store(out + channels, squares, mask=c < channels)


@triton.jit
def forward_kernel(x, scale, shift, y, k_of, H, W, OH, OW, channels, COLUMNS: tl.constexpr, CHANNELS: tl.constexpr):
    """``y`` = ReLU(3×3 max-pool of stride 2 of scale·x + shift), and which pixel it was."""
    frame = (tl.program_id(0) // OH).to(tl.int64)
    oh = tl.program_id(0) % OH
    ow = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    c = tl.arange(0, CHANNELS)
    is_channel = (c < channels)[None, :]
    a = tl.load(scale + c, mask=c < channels, other=0.0)[None, :]
    b = tl.load(shift + c, mask=c < channels, other=0.0)[None, :]
    best = tl.full((COLUMNS, CHANNELS), float("-inf"), tl.float32)
    k_best = tl.full((COLUMNS, CHANNELS), 0, tl.int32)
    for k in tl.static_range(9):
        h = 2 * oh - 1 + k // 3
        w = 2 * ow - 1 + k % 3
        inside = ((h >= 0) & (h < H) & (w >= 0) & (w < W))[:, None] & is_channel
        at = ((frame * H + h) * W + w)[:, None] * channels + c[None, :]
        value = tl.load(x + at, mask=inside, other=0.0).to(tl.float32) * a + b
        # What is not a number goes through, as it does in torch's pool.
        larger = inside & ((value > best) | (value != value))
        best = tl.where(larger, value, best)
        k_best = tl.where(larger, k, k_best)
    through = (best > 0) | (best != best)
    at = ((frame * OH + oh) * OW + ow)[:, None] * channels + c[None, :]
    there = (ow < OW)[:, None] & is_channel
    tl.store(y + at, tl.where(through, best, 0.0).to(y.dtype.element_ty), mask=there)
    tl.store(k_of + at, tl.where(through, k_best, _NOTHING).to(tl.uint8), mask=there)


@triton.jit
def _where(k, d, wanted: tl.constexpr):
    return tl.where(k == wanted, d, 0.0)


@triton.jit
def _to_pixels(dy, k_of, row, is_last_row, ow, OW, channels, c, is_channel):
    """What reaches the four pixels of a block of 2×2: the first is in one window alone, the last in four."""
    here = (row * OW + ow)[:, None] * channels + c[None, :]
    right, below = here + channels, here + OW * channels
    in_row, in_next = (ow < OW)[:, None] & is_channel, (ow + 1 < OW)[:, None] & is_channel
    under = is_last_row == 0
    k0 = tl.load(k_of + here, mask=in_row, other=_NOTHING).to(tl.int32)
    k1 = tl.load(k_of + right, mask=in_next, other=_NOTHING).to(tl.int32)
    k2 = tl.load(k_of + below, mask=in_row & under, other=_NOTHING).to(tl.int32)
    k3 = tl.load(k_of + below + channels, mask=in_next & under, other=_NOTHING).to(tl.int32)
    d0 = tl.load(dy + here, mask=in_row, other=0.0).to(tl.float32)
    d1 = tl.load(dy + right, mask=in_next, other=0.0).to(tl.float32)
    d2 = tl.load(dy + below, mask=in_row & under, other=0.0).to(tl.float32)
    d3 = tl.load(dy + below + channels, mask=in_next & under, other=0.0).to(tl.float32)
    return (
        _where(k0, d0, 4),
        _where(k0, d0, 5) + _where(k1, d1, 3),
        _where(k0, d0, 7) + _where(k2, d2, 1),
        _where(k0, d0, 8) + _where(k1, d1, 6) + _where(k2, d2, 2) + _where(k3, d3, 0),
    )


@triton.jit
def sums_kernel(
    x, dy, k_of, mean, invstd, partial, rows, H, W, OH, OW, channels,
    ROWS: tl.constexpr, BLOCKS: tl.constexpr, COLUMNS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """Sums of what reaches the norm, and of it times the normalised value: ``partial`` (programs, 2, C) float32.

    A program takes ROWS rows of the pooled tensor (of all frames), in BLOCKS of COLUMNS.
    """
    c = tl.arange(0, CHANNELS)
    is_channel = (c < channels)[None, :]
    m = tl.load(mean + c, mask=c < channels, other=0.0)[None, :]
    r = tl.load(invstd + c, mask=c < channels, other=0.0)[None, :]
    sum_d = tl.zeros((COLUMNS, CHANNELS), tl.float32)
    sum_d_x = tl.zeros((COLUMNS, CHANNELS), tl.float32)
    for number in range(ROWS * BLOCKS):
        row = tl.program_id(0).to(tl.int64) * ROWS + number // BLOCKS
        oh = row % OH
        # Rows beyond the last have no columns.
        ow = (number % BLOCKS) * COLUMNS + tl.arange(0, COLUMNS) + tl.where(row < rows, 0, OW)
        reached = _to_pixels(dy, k_of, row, oh + 1 == OH, ow, OW, channels, c, is_channel)
        for q in tl.static_range(4):
            h, w = 2 * oh + q // 2, 2 * ow + q % 2
            at = ((row // OH * H + h) * W + w)[:, None] * channels + c[None, :]
            there = ((ow < OW) & (w < W) & (h < H))[:, None] & is_channel
            value = tl.load(x + at, mask=there, other=0.0).to(tl.float32)
            sum_d += reached[q]
            # An infinite value that nothing reaches is to add nothing.
            sum_d_x += tl.where(reached[q] == 0, 0.0, reached[q] * (value - m) * r)
    out = partial + tl.program_id(0) * 2 * channels + c
    tl.store(out, tl.sum(sum_d, axis=0), mask=c < channels)
    tl.store(out + channels, tl.sum(sum_d_x, axis=0), mask=c < channels)


@triton.jit
def backward_kernel(
    x, dy, k_of, dx, mean, invstd, scale, mean_d, mean_d_x, H, W, OH, OW, channels,
    COLUMNS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """dx of the norm, from dy of the pool. A program writes 2×COLUMNS pixels of two rows."""
    row = tl.program_id(0).to(tl.int64)
    oh = row % OH
    ow = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    c = tl.arange(0, CHANNELS)
    is_channel = (c < channels)[None, :]
    reached = _to_pixels(dy, k_of, row, oh + 1 == OH, ow, OW, channels, c, is_channel)
    m = tl.load(mean + c, mask=c < channels, other=0.0)[None, :]
    r = tl.load(invstd + c, mask=c < channels, other=0.0)[None, :]
    a = tl.load(scale + c, mask=c < channels, other=0.0)[None, :]
    s = tl.load(mean_d + c, mask=c < channels, other=0.0)[None, :]
    t = tl.load(mean_d_x + c, mask=c < channels, other=0.0)[None, :]
    for q in tl.static_range(4):
        h, w = 2 * oh + q // 2, 2 * ow + q % 2
        at = ((row // OH * H + h) * W + w)[:, None] * channels + c[None, :]
        there = ((h < H) & (w < W))[:, None] & is_channel
        normalised = (tl.load(x + at, mask=there, other=0.0).to(tl.float32) - m) * r
        tl.store(dx + at, (a * (reached[q] - s - normalised * t)).to(dx.dtype.element_ty), mask=there)
