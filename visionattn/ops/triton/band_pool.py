"""Kernels of `visionattn.ops.band_pool`: a program sums one band of some channels of one image."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from visionattn.ops.triton._maps import dense_rows, map_strides, tile_for, write_like

__all__ = ["backward", "forward"]

_SIZE = 1024


@triton.jit
def pool(
    out, x, bands, channels, positions, x_b, x_c, x_p, P: tl.constexpr, C: tl.constexpr,
):  # fmt: skip
    """`out[b, c, i]` is the mean of band i of `x[b, c]`."""
    groups = tl.cdiv(channels, C)
    program = tl.program_id(0)
    band = program % bands
    c = (program // bands % groups) * C + tl.arange(0, C)
    image = (program // bands // groups).to(tl.int64)
    start = (band.to(tl.int64) * positions // bands).to(tl.int32)
    end = (((band + 1).to(tl.int64) * positions + bands - 1) // bands).to(tl.int32)
    x += image * x_b + c.to(tl.int64)[None, :] * x_c
    total = tl.zeros((P, C), tl.float32)
    for first in range(start, end, P):
        p = first + tl.arange(0, P)
        mask = (p < end)[:, None] & (c < channels)[None, :]
        total += tl.load(x + p.to(tl.int64)[:, None] * x_p, mask=mask, other=0.0).to(tl.float32)
    mean = tl.sum(total, axis=0) / (end - start)
    tl.store(out + (image * channels + c) * bands + band, mean.to(out.dtype.element_ty), mask=c < channels)


@triton.jit
def pool_backward(
    grad_x, grad, channels, positions, gx_b, gx_c, gx_p, BANDS: tl.constexpr, P: tl.constexpr, C: tl.constexpr,
):  # fmt: skip
    """Every position gets of each band that it is in the band's gradient over the band's length."""
    tiles, groups = tl.cdiv(positions, P), tl.cdiv(channels, C)
    program = tl.program_id(0)
    p = (program % tiles) * P + tl.arange(0, P)
    c = (program // tiles % groups) * C + tl.arange(0, C)
    image = (program // tiles // groups).to(tl.int64)
    grad += (image * channels + c) * BANDS
    total = tl.zeros((P, C), tl.float32)
    for band in range(BANDS):
        start = (tl.full((), band, tl.int64) * positions // BANDS).to(tl.int32)
        end = ((tl.full((), band + 1, tl.int64) * positions + BANDS - 1) // BANDS).to(tl.int32)
        share = tl.load(grad + band, mask=c < channels, other=0.0).to(tl.float32) / (end - start)
        total += tl.where((p >= start) & (p < end), 1.0, 0.0)[:, None] * share[None, :]
    grad_x += image * gx_b + p.to(tl.int64)[:, None] * gx_p + c.to(tl.int64)[None, :] * gx_c
    tl.store(grad_x, total.to(grad_x.dtype.element_ty), mask=(p < positions)[:, None] & (c < channels)[None, :])


def forward(x: Tensor, bands: int) -> tuple[Tensor]:
    batch, channels, height, width = x.shape
    out, x = x.new_empty((batch, channels, bands)), dense_rows(x)
    tile = tile_for(x, triton.cdiv(height * width, bands) + 1, _SIZE)
    pool[(batch * triton.cdiv(channels, tile.channels) * bands,)](
        out, x, bands, channels, height * width, *map_strides(x), *tile
    )
    return (out,)


def backward(grad: Tensor, x: Tensor, bands: int) -> tuple[Tensor]:
    batch, channels, height, width = x.shape
    grad = grad.contiguous()

    def write(grad_x: Tensor) -> None:
        tile = tile_for(grad_x, height * width, _SIZE)
        programs = batch * triton.cdiv(channels, tile.channels) * triton.cdiv(height * width, tile.positions)
        pool_backward[(programs,)](grad_x, grad, channels, height * width, *map_strides(grad_x), bands, *tile)

    return (write_like(x, write),)
