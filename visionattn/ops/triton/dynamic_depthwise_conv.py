"""Kernels of `visionattn.ops.dynamic_depthwise_conv`.

A program works on a tile of positions times channels of one image. Each tap is one shifted load of the tile, which the
first-level cache serves; nothing is unfolded. Backward makes both gradients in one pass: that of the map is the same
convolution with the kernels turned around, that of a kernel's tap is the sum of a product, which every tile writes for
itself and a second step adds up in a fixed order.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from visionattn.ops.dynamic_depthwise_conv import empty_like_map
from visionattn.ops.triton._maps import dense_rows, map_strides, tile_for, write_like

__all__ = ["backward", "forward"]

_FORWARD = dict(size=1024, warps=4)  # of a tile, and of the program that works on it
_BACKWARD = dict(size=4096, warps=8)


@triton.jit
def _locate(channels, positions, width, P: tl.constexpr, C: tl.constexpr):
    """The tile of this program: image, tile number, first position and channel, rows and columns, masks."""
    tiles = tl.cdiv(positions, P)
    groups = tl.cdiv(channels, C)
    program = tl.program_id(0)
    tile = program % tiles
    image = (program // tiles // groups).to(tl.int64)
    p0 = tile.to(tl.int64) * P
    c0 = (program // tiles % groups) * C
    p = tile * P + tl.arange(0, P)
    row = p // width
    return image, tile, p0, c0, row, p - row * width, p < positions, c0 + tl.arange(0, C) < channels


@triton.jit
def _offsets(image, p0, c0, stride_b, stride_c, stride_p, P: tl.constexpr, C: tl.constexpr):
    base = image * stride_b + c0.to(tl.int64) * stride_c + p0 * stride_p
    return base + tl.arange(0, P)[:, None] * stride_p + tl.arange(0, C)[None, :] * stride_c


@triton.jit
def convolve(
    out, x, weight, channels, height, width, out_b, out_c, out_p, x_b, x_c, x_p,
    KH: tl.constexpr, KW: tl.constexpr, P: tl.constexpr, C: tl.constexpr,
):  # fmt: skip
    """`out[b, c, p] = sum_t weight[b, c, t] x[b, c, p + t]`."""
    image, _, p0, c0, row, column, valid, real = _locate(channels, height * width, width, P, C)
    x += _offsets(image, p0, c0, x_b, x_c, x_p, P, C)
    weight += ((image * channels + c0) + tl.arange(0, C)) * (KH * KW)
    total = tl.zeros((P, C), tl.float32)
    for i in tl.static_range(KH):
        for j in tl.static_range(KW):
            r, c = row + (i - KH // 2), column + (j - KW // 2)
            inside = valid & (r >= 0) & (r < height) & (c >= 0) & (c < width)
            step = ((i - KH // 2) * width + (j - KW // 2)) * x_p
            shifted = tl.load(x + step, mask=inside[:, None] & real[None, :], other=0.0).to(tl.float32)
            tap = tl.load(weight + i * KW + j, mask=real, other=0.0).to(tl.float32)
            total += shifted * tap[None, :]
    out += _offsets(image, p0, c0, out_b, out_c, out_p, P, C)
    tl.store(out, total.to(out.dtype.element_ty), mask=valid[:, None] & real[None, :])


@triton.jit
def convolve_backward(
    grad_x, partial, grad, x, weight, images, channels, height, width,
    gx_b, gx_c, gx_p, g_b, g_c, g_p, x_b, x_c, x_p,
    KH: tl.constexpr, KW: tl.constexpr, P: tl.constexpr, C: tl.constexpr,
):  # fmt: skip
    """`grad_x`, and in `partial` `[tiles, images, channels, taps]` every tile's part of the kernels' gradient."""
    image, tile, p0, c0, row, column, valid, real = _locate(channels, height * width, width, P, C)
    x += _offsets(image, p0, c0, x_b, x_c, x_p, P, C)
    grad += _offsets(image, p0, c0, g_b, g_c, g_p, P, C)
    kernel = ((image * channels + c0) + tl.arange(0, C)) * (KH * KW)
    partial += kernel + tile.to(tl.int64) * images * channels * (KH * KW)
    here = tl.load(grad, mask=valid[:, None] & real[None, :], other=0.0).to(tl.float32)
    total = tl.zeros((P, C), tl.float32)
    for i in tl.static_range(KH):
        for j in tl.static_range(KW):
            di, dj = i - KH // 2, j - KW // 2
            inside = valid & (row + di >= 0) & (row + di < height) & (column + dj >= 0) & (column + dj < width)
            mask = inside[:, None] & real[None, :]
            shifted = tl.load(x + (di * width + dj) * x_p, mask=mask, other=0.0).to(tl.float32)
            tl.store(partial + i * KW + j, tl.sum(here * shifted, axis=0), mask=real)
            shifted = tl.load(grad + (di * width + dj) * g_p, mask=mask, other=0.0).to(tl.float32)
            opposite = (KH - 1 - i) * KW + KW - 1 - j
            tap = tl.load(weight + kernel + opposite, mask=real, other=0.0).to(tl.float32)
            total += shifted * tap[None, :]
    grad_x += _offsets(image, p0, c0, gx_b, gx_c, gx_p, P, C)
    tl.store(grad_x, total.to(grad_x.dtype.element_ty), mask=valid[:, None] & real[None, :])


def forward(value: Tensor, kernels: Tensor) -> tuple[Tensor]:
    batch, channels, height, width = value.shape
    out, value = empty_like_map(value), dense_rows(value)
    tile = tile_for(value, height * width, _FORWARD["size"])
    programs = batch * triton.cdiv(channels, tile.channels) * triton.cdiv(height * width, tile.positions)
    convolve[(programs,)](
        out, value, kernels.contiguous(), channels, height, width, *map_strides(out), *map_strides(value),
        *kernels.shape[2:], *tile, num_warps=_FORWARD["warps"],
    )  # fmt: skip
    return (out,)


def backward(grad: Tensor, value: Tensor, kernels: Tensor) -> tuple[Tensor, Tensor]:
    batch, channels, height, width = value.shape
    grad, x, weight = dense_rows(grad), dense_rows(value), kernels.contiguous()
    tile = tile_for(x, height * width, _BACKWARD["size"])
    tiles = triton.cdiv(height * width, tile.positions)
    programs = batch * triton.cdiv(channels, tile.channels) * tiles
    dtype = kernels.dtype if tiles == 1 else torch.float32
    partial = torch.empty((tiles, *kernels.shape), device=grad.device, dtype=dtype)

    def write(grad_x: Tensor) -> None:
        convolve_backward[(programs,)](
            grad_x, partial, grad, x, weight, batch, channels, height, width,
            *map_strides(grad_x), *map_strides(grad), *map_strides(x), *kernels.shape[2:], *tile,
            num_warps=_BACKWARD["warps"],
        )  # fmt: skip

    grad_value = write_like(value, write)
    grad_kernels = partial[0] if tiles == 1 else partial.sum(0).to(kernels.dtype)
    return grad_value, grad_kernels if kernels.is_contiguous() else torch.empty_like(kernels).copy_(grad_kernels)
