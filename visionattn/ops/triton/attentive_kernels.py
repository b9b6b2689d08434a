"""Kernels of `visionattn.ops.attentive_kernels`: a program turns the contexts of some channels into kernels.

What is summed over channels and images, the gradients of the parameters, is written by each program for its own rows
and added up in a second step, in a fixed order.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

__all__ = ["backward", "forward"]

_ROWS = 64  # of a program; a row is one channel of one image


@triton.jit
def _tanh(x):
    return 2.0 * tl.sigmoid(2.0 * x) - 1.0


@triton.jit
def activate(x, KIND: tl.constexpr):
    if KIND == "gelu":
        return 0.5 * x * (1.0 + tl.erf(x * 0.7071067811865476))
    elif KIND == "gelu_tanh":
        return 0.5 * x * (1.0 + _tanh(0.7978845608028654 * (x + 0.044715 * x * x * x)))
    else:
        return x * tl.sigmoid(x)


@triton.jit
def slope(x, KIND: tl.constexpr):
    """Derivative of `activate`."""
    if KIND == "gelu":
        return 0.5 * (1.0 + tl.erf(x * 0.7071067811865476)) + x * 0.3989422804014327 * tl.exp(-0.5 * x * x)
    elif KIND == "gelu_tanh":
        t = _tanh(0.7978845608028654 * (x + 0.044715 * x * x * x))
        return 0.5 * (1.0 + t) + 0.5 * x * (1.0 - t * t) * 0.7978845608028654 * (1.0 + 0.134145 * x * x)
    else:
        s = tl.sigmoid(x)
        return s * (1.0 + x * (1.0 - s))


@triton.jit
def _load_matrix(weight, taps, T: tl.constexpr):
    """`weight` as `[out, in]`, padded with zeros."""
    i, j = tl.arange(0, T)[:, None], tl.arange(0, T)[None, :]
    return tl.load(weight + i * taps + j, mask=(i < taps) & (j < taps), other=0.0).to(tl.float32)


@triton.jit
def generate(
    out, context, weight, bias, difference, rows, channels, taps,
    KIND: tl.constexpr, R: tl.constexpr, T: tl.constexpr,
):  # fmt: skip
    r = tl.program_id(0) * R + tl.arange(0, R)
    t = tl.arange(0, T)
    mask = (r < rows)[:, None] & (t < taps)[None, :]
    offsets = r.to(tl.int64)[:, None] * taps + t[None, :]
    x = tl.load(context + offsets, mask=mask, other=0.0).to(tl.float32)
    matrix = _load_matrix(weight, taps, T)
    raw = tl.dot(activate(x, KIND), tl.trans(matrix), input_precision="ieee")
    raw += tl.load(bias + t, mask=t < taps, other=0.0).to(tl.float32)[None, :]
    part = tl.sigmoid(tl.load(difference + r % channels).to(tl.float32))
    tl.store(out + offsets, raw - (part * tl.sum(raw, axis=1) / taps)[:, None], mask=mask)


@triton.jit
def generate_backward(
    grad_context, partial, partial_difference, grad, context, weight, bias, difference, rows, channels, taps,
    KIND: tl.constexpr, R: tl.constexpr, T: tl.constexpr,
):  # fmt: skip
    """`partial` `[programs, T + 1, T]` holds the gradients of the weight and, in its last row, of the bias."""
    r = tl.program_id(0) * R + tl.arange(0, R)
    t = tl.arange(0, T)
    mask = (r < rows)[:, None] & (t < taps)[None, :]
    offsets = r.to(tl.int64)[:, None] * taps + t[None, :]
    x = tl.load(context + offsets, mask=mask, other=0.0).to(tl.float32)
    y = activate(x, KIND)
    matrix = _load_matrix(weight, taps, T)
    raw = tl.dot(y, tl.trans(matrix), input_precision="ieee")
    raw += tl.load(bias + t, mask=t < taps, other=0.0).to(tl.float32)[None, :]
    part = tl.sigmoid(tl.load(difference + r % channels).to(tl.float32))
    g = tl.load(grad + offsets, mask=mask, other=0.0).to(tl.float32)
    total = tl.sum(g, axis=1)
    change = -part * (1.0 - part) * total * tl.sum(raw, axis=1) / taps
    tl.store(partial_difference + r, change, mask=r < rows)
    g = tl.where(mask, g - (part * total / taps)[:, None], 0.0)
    grad_x = tl.dot(g, matrix, input_precision="ieee") * slope(x, KIND)
    tl.store(grad_context + offsets, grad_x.to(grad_context.dtype.element_ty), mask=mask)
    partial += tl.program_id(0) * (T + 1) * T
    tl.store(partial + t[:, None] * T + t[None, :], tl.dot(tl.trans(g), y, input_precision="ieee"))
    tl.store(partial + T * T + t, tl.sum(g, axis=0))


def _sizes(context: Tensor) -> tuple[int, int, int, int]:
    """Rows, programs, taps, and taps padded to what a matrix product takes."""
    batch, channels, taps = context.shape
    return batch * channels, triton.cdiv(batch * channels, _ROWS), taps, max(16, triton.next_power_of_2(taps))


def forward(context: Tensor, weight: Tensor, bias: Tensor, difference: Tensor, activation: str) -> tuple[Tensor]:
    rows, programs, taps, padded = _sizes(context)
    out = torch.empty(context.shape, device=context.device, dtype=torch.float32)
    generate[(programs,)](
        out, context.contiguous(), weight.contiguous(), bias.contiguous(), difference.contiguous(),
        rows, context.shape[1], taps, activation, _ROWS, padded,
    )  # fmt: skip
    return (out,)


def backward(
    grad: Tensor, context: Tensor, weight: Tensor, bias: Tensor, difference: Tensor, activation: str
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    rows, programs, taps, padded = _sizes(context)
    grad_context = torch.empty(context.shape, device=grad.device, dtype=context.dtype)
    partial = torch.empty((programs, padded + 1, padded), device=grad.device, dtype=torch.float32)
    changes = torch.empty(context.shape[:2], device=grad.device, dtype=torch.float32)
    generate_backward[(programs,)](
        grad_context, partial, changes, grad.contiguous(), context.contiguous(), weight.contiguous(),
        bias.contiguous(), difference.contiguous(), rows, context.shape[1], taps, activation, _ROWS, padded,
    )  # fmt: skip
    sums = partial.sum(0)
    if not context.is_contiguous():
        grad_context = torch.empty_like(context).copy_(grad_context)
    return (
        grad_context,
        sums[:taps, :taps].to(weight.dtype, copy=True),
        sums[padded, :taps].to(bias.dtype, copy=True),
        changes.sum(0).to(difference.dtype),
    )
