"""Kernels of `visionattn.ops.dynamic_depthwise_conv`, for 3 x 3 kernels.

A program walks down a strip of rows, some columns wide and some channels deep. Each row of the map is read once, at
three shifts, and given to the three rows of the output that want it, whose sums are in registers: address arithmetic,
not memory, is what limits such a kernel. Backward makes both gradients on one walk: that of the map is the same
convolution with the kernels turned around; those of the kernels are nine sums of products, which every strip writes for
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

_ROWS = 16  # of a strip
_SIZE = 256  # columns times channels of a strip
# The width is not looked at: a row that starts on a vector's boundary would get another layout than its shifts have.
_UNSPECIALIZED = ["height", "width"]


@triton.jit
def _locate(channels, height, width, ROWS: tl.constexpr, W: tl.constexpr, C: tl.constexpr):
    """The strip of this program: its number within the image, the image, first row, columns and channels."""
    across, down, groups = tl.cdiv(width, W), tl.cdiv(height, ROWS), tl.cdiv(channels, C)
    program = tl.program_id(0)
    strip = program % (across * down)
    image = (program // (across * down) // groups).to(tl.int64)
    w = (strip % across) * W + tl.arange(0, W)[:, None]
    c = (program // (across * down) % groups) * C + tl.arange(0, C)[None, :]
    return strip, image, strip // across * ROWS, w, c


@triton.jit
def _row(x, row, first, end, w, width, c, channels, step):
    """A row of `[first, end)` at three shifts; zeros beyond the map."""
    here = (row >= first) & (row < end) & (w < width) & (c < channels)
    left = tl.load(x - step, mask=here & (w >= 1), other=0.0)
    middle = tl.load(x, mask=here, other=0.0)
    right = tl.load(x + step, mask=here & (w + 1 < width), other=0.0)
    return left, middle, right


@triton.jit(do_not_specialize=_UNSPECIALIZED)
def convolve(
    out, x, weight, channels, height, width, out_b, out_c, out_p, x_b, x_c, x_p,
    ROWS: tl.constexpr, W: tl.constexpr, C: tl.constexpr,
):  # fmt: skip
    """`out[b, c, r, w] = sum_ij weight[b, c, i, j] x[b, c, r + i - 1, w + j - 1]`."""
    _, image, first, w, c = _locate(channels, height, width, ROWS, W, C)
    here = (w < width) & (c < channels)
    weight += (image * channels + c) * 9
    k00 = tl.load(weight + 0, mask=c < channels, other=0.0).to(tl.float32)
    k01 = tl.load(weight + 1, mask=c < channels, other=0.0).to(tl.float32)
    k02 = tl.load(weight + 2, mask=c < channels, other=0.0).to(tl.float32)
    k10 = tl.load(weight + 3, mask=c < channels, other=0.0).to(tl.float32)
    k11 = tl.load(weight + 4, mask=c < channels, other=0.0).to(tl.float32)
    k12 = tl.load(weight + 5, mask=c < channels, other=0.0).to(tl.float32)
    k20 = tl.load(weight + 6, mask=c < channels, other=0.0).to(tl.float32)
    k21 = tl.load(weight + 7, mask=c < channels, other=0.0).to(tl.float32)
    k22 = tl.load(weight + 8, mask=c < channels, other=0.0).to(tl.float32)
    start = (first - 1).to(tl.int64) * width + w
    x += image * x_b + c.to(tl.int64) * x_c + start * x_p
    out += image * out_b + c.to(tl.int64) * out_c + (start - width) * out_p
    above = tl.zeros((W, C), tl.float32)  # of the output's row before the current one; nearly done
    current = tl.zeros((W, C), tl.float32)
    row = first - 1 + tl.zeros_like(w)  # a block: the interpreter has no mask of a scalar and a block
    left, middle, right = _row(x, row, 0, height, w, width, c, channels, x_p)
    for _ in range(tl.minimum(ROWS, height - first) + 2):
        a, b, d = left.to(tl.float32), middle.to(tl.float32), right.to(tl.float32)
        x += width * x_p
        left, middle, right = _row(x, row + 1, 0, height, w, width, c, channels, x_p)  # ahead of its use
        above += k20 * a + k21 * b + k22 * d
        tl.store(out, above.to(out.dtype.element_ty), mask=here & (row > first))
        above = current + (k10 * a + k11 * b + k12 * d)
        current = k00 * a + k01 * b + k02 * d
        out += width * out_p
        row += 1


@triton.jit(do_not_specialize=_UNSPECIALIZED)
def convolve_backward(
    grad_x, partial, grad, x, weight, images, channels, height, width,
    gx_b, gx_c, gx_p, g_b, g_c, g_p, x_b, x_c, x_p,
    ROWS: tl.constexpr, W: tl.constexpr, C: tl.constexpr,
):  # fmt: skip
    """`grad_x`, and in `partial` `[strips, images, channels, 9]` every strip's part of the kernels' gradient.

    A strip sums the products of its rows of `x` with the rows of `grad` around them.
    """
    strip, image, first, w, c = _locate(channels, height, width, ROWS, W, C)
    here = (w < width) & (c < channels)
    kernel = (image * channels + c) * 9
    weight += kernel
    k00 = tl.load(weight + 8, mask=c < channels, other=0.0).to(tl.float32)  # turned around
    k01 = tl.load(weight + 7, mask=c < channels, other=0.0).to(tl.float32)
    k02 = tl.load(weight + 6, mask=c < channels, other=0.0).to(tl.float32)
    k10 = tl.load(weight + 5, mask=c < channels, other=0.0).to(tl.float32)
    k11 = tl.load(weight + 4, mask=c < channels, other=0.0).to(tl.float32)
    k12 = tl.load(weight + 3, mask=c < channels, other=0.0).to(tl.float32)
    k20 = tl.load(weight + 2, mask=c < channels, other=0.0).to(tl.float32)
    k21 = tl.load(weight + 1, mask=c < channels, other=0.0).to(tl.float32)
    k22 = tl.load(weight + 0, mask=c < channels, other=0.0).to(tl.float32)
    zeros = tl.zeros((W, C), tl.float32)
    d00, d01, d02, d10, d11, d12, d20, d21, d22 = zeros, zeros, zeros, zeros, zeros, zeros, zeros, zeros, zeros
    above, current, one_back = zeros, zeros, zeros
    # Another value than `one_back` starts with: Triton takes a variable for a constant that gets its own value back.
    two_back = tl.zeros((W, C), tl.float32)
    start = (first - 1).to(tl.int64) * width + w
    grad += image * g_b + c.to(tl.int64) * g_c + start * g_p
    # These two are a row behind `grad`.
    x += image * x_b + c.to(tl.int64) * x_c + (start - width) * x_p
    grad_x += image * gx_b + c.to(tl.int64) * gx_c + (start - width) * gx_p
    row = first - 1 + tl.zeros_like(w)  # a block: the interpreter has no mask of a scalar and a block
    g0, g1, g2 = _row(grad, row, 0, height, w, width, c, channels, g_p)
    x0, x1, x2 = _row(x, row, first + 1, height + 1, w, width, c, channels, x_p)
    for _ in range(tl.minimum(ROWS, height - first) + 2):
        g_left, g, g_right = g0.to(tl.float32), g1.to(tl.float32), g2.to(tl.float32)
        x_left, x_here, x_right = x0.to(tl.float32), x1.to(tl.float32), x2.to(tl.float32)
        grad += width * g_p
        x += width * x_p
        g0, g1, g2 = _row(grad, row + 1, 0, height, w, width, c, channels, g_p)  # ahead of their use
        x0, x1, x2 = _row(x, row + 1, first + 1, height + 1, w, width, c, channels, x_p)
        above += k20 * g_left + k21 * g + k22 * g_right
        tl.store(grad_x, above.to(grad_x.dtype.element_ty), mask=here & (row > first))
        above = current + (k10 * g_left + k11 * g + k12 * g_right)
        current = k00 * g_left + k01 * g + k02 * g_right
        # The row of x before `row` is tap 0 of the gradient's row below it, tap 1 of its own, tap 2 of the one above.
        d00 += g * x_left
        d01 += g * x_here
        d02 += g * x_right
        d10 += one_back * x_left
        d11 += one_back * x_here
        d12 += one_back * x_right
        d20 += two_back * x_left
        d21 += two_back * x_here
        d22 += two_back * x_right
        two_back, one_back = one_back, g
        grad_x += width * gx_p
        row += 1
    partial += strip.to(tl.int64) * images * channels * 9 + kernel
    tl.store(partial + 0, tl.sum(d00, axis=0)[None, :], mask=c < channels)
    tl.store(partial + 1, tl.sum(d01, axis=0)[None, :], mask=c < channels)
    tl.store(partial + 2, tl.sum(d02, axis=0)[None, :], mask=c < channels)
    tl.store(partial + 3, tl.sum(d10, axis=0)[None, :], mask=c < channels)
    tl.store(partial + 4, tl.sum(d11, axis=0)[None, :], mask=c < channels)
    tl.store(partial + 5, tl.sum(d12, axis=0)[None, :], mask=c < channels)
    tl.store(partial + 6, tl.sum(d20, axis=0)[None, :], mask=c < channels)
    tl.store(partial + 7, tl.sum(d21, axis=0)[None, :], mask=c < channels)
    tl.store(partial + 8, tl.sum(d22, axis=0)[None, :], mask=c < channels)


def _strips(x: Tensor) -> tuple[tuple[int, int, int], int, int, int]:
    """Rows, columns and channels of a strip; strips per image; programs; warps of a program."""
    batch, channels, height, width = x.shape
    tile = tile_for(x, min(width, 64), _SIZE)
    strips = triton.cdiv(height, _ROWS) * triton.cdiv(width, tile.positions)
    warps = 2 if x.stride(1) == 1 else 4  # where channels come first in memory, threads take several at once
    return (_ROWS, *tile), strips, batch * triton.cdiv(channels, tile.channels) * strips, warps


def forward(value: Tensor, kernels: Tensor) -> tuple[Tensor]:
    _, channels, height, width = value.shape
    out, value = empty_like_map(value), dense_rows(value)
    sizes, _, programs, warps = _strips(value)
    convolve[(programs,)](
        out, value, kernels.contiguous(), channels, height, width, *map_strides(out), *map_strides(value), *sizes,
        num_warps=warps,
    )  # fmt: skip
    return (out,)


def backward(grad: Tensor, value: Tensor, kernels: Tensor) -> tuple[Tensor, Tensor]:
    batch, channels, height, width = value.shape
    grad, x, weight = dense_rows(grad), dense_rows(value), kernels.contiguous()
    sizes, strips, programs, warps = _strips(x)
    dtype = kernels.dtype if strips == 1 else torch.float32
    partial = torch.empty((strips, *kernels.shape), device=grad.device, dtype=dtype)

    def write(grad_x: Tensor) -> None:
        convolve_backward[(programs,)](
            grad_x, partial, grad, x, weight, batch, channels, height, width,
            *map_strides(grad_x), *map_strides(grad), *map_strides(x), *sizes, num_warps=warps,
        )  # fmt: skip

    grad_value = write_like(value, write)
    grad_kernels = partial[0] if strips == 1 else partial.sum(0).to(kernels.dtype)
    return grad_value, grad_kernels if kernels.is_contiguous() else torch.empty_like(kernels).copy_(grad_kernels)
