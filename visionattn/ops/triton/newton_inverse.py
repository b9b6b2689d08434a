"""Kernels of `visionattn.ops.newton_inverse`: a program holds one matrix and runs all iterations on it."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

__all__ = ["backward", "forward"]

STARTS = 11  # steps that the global start chooses from
_MOST_HALF = 26  # iterations in half precision: the inverse may grow to 2 ** (iterations / 2)


@triton.jit
def _load(pointer, m, offset, M: tl.constexpr):
    rows, columns = tl.arange(0, M)[:, None], tl.arange(0, M)[None, :]
    mask = (rows < m) & (columns < m)
    return tl.load(pointer + offset * m * m + rows * m + columns, mask=mask, other=0.0)


@triton.jit
def _store(pointer, x, m, offset, M: tl.constexpr):
    rows, columns = tl.arange(0, M)[:, None], tl.arange(0, M)[None, :]
    tl.store(pointer + offset * m * m + rows * m + columns, x, mask=(rows < m) & (columns < m))


@triton.jit
def _identity(m, M: tl.constexpr):
    rows, columns = tl.arange(0, M)[:, None], tl.arange(0, M)[None, :]
    return tl.where((rows == columns) & (rows < m), 1.0, 0.0)


@triton.jit
def _halves(x):
    """`x` as a sum of a half-precision number and another one over 2048: 22 bits of it."""
    high = x.to(tl.float16)
    return high, ((x - high.to(tl.float32)) * 2048.0).to(tl.float16)


@triton.jit
def _dot(x, y, PRECISION: tl.constexpr):
    """A product of float32; "fp16x3" is as exact as "tf32x3", twice as fast, and for numbers around one."""
    if PRECISION == "fp16x3":
        x_high, x_low = _halves(x)
        y_high, y_low = _halves(y)
        small = tl.dot(x_low, y_high, tl.dot(x_high, y_low))
        product = tl.dot(x_high, y_high, small * (1.0 / 2048.0))
    else:
        product = tl.dot(x, y, input_precision=PRECISION)
    return product


@triton.jit
def _degree(matrix, m, M: tl.constexpr):
    """Reciprocal square roots of the row sums, zero outside the matrix."""
    return tl.where(tl.arange(0, M) < m, tl.rsqrt(tl.sum(matrix, 1)), 0.0)


@triton.jit
def largest_rows(matrix, largest, m, M: tl.constexpr):
    index = tl.program_id(0).to(tl.int64)
    tl.store(largest + index, tl.max(tl.sum(_load(matrix, m, index, M), 1), 0))


@triton.jit
def residuals(matrix, largest, residual, m, STARTS: tl.constexpr, M: tl.constexpr, PRECISION: tl.constexpr):
    """Largest column sum of `|I - P V|` of one matrix, for every step that the start may take."""
    index = tl.program_id(0).to(tl.int64)
    x = _load(matrix, m, index, M)
    square = _dot(x, x, PRECISION)
    identity = _identity(m, M)
    step = 2.0 / (tl.load(largest) * tl.load(largest))
    for i in range(STARTS):
        column_sums = tl.sum(tl.abs(identity - square * step), 0)
        tl.store(residual + index * STARTS + i, tl.max(column_sums, 0))
        step = step / 2


@triton.jit
def invert(
    matrix, out, inverse, start, m, iterations,
    GLOBAL: tl.constexpr, NORMALIZE: tl.constexpr, M: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """The result, the inverse before its normalization, and the step of one matrix."""
    index = tl.program_id(0).to(tl.int64)
    x = _load(matrix, m, index, M)
    p = x
    if GLOBAL:
        step = tl.load(start)
    else:
        largest = tl.max(tl.sum(x, 1), 0)
        step = 1.8 / (largest * largest)
        p = x + 0.01 * _identity(m, M)
    # In units, powers of two, in which the matrix and the start are about one.
    unit = tl.exp2(tl.floor(0.5 * tl.log2(step)))
    p = p * unit
    v = step / (unit * unit) * p
    for _ in range(iterations):
        v = 2.0 * v - _dot(_dot(v, p, PRECISION), v, PRECISION)
    v = v * unit
    _store(inverse, v, m, index, M)
    if NORMALIZE:
        degree = _degree(x, m, M)
        v = degree[:, None] * v * degree[None, :]
    _store(out, v, m, index, M)


@triton.jit
def differentiate(
    grad, matrix, inverse, start, history, grad_matrix, grad_start, m, iterations,
    GLOBAL: tl.constexpr, NORMALIZE: tl.constexpr, M: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """The gradient of one matrix, and of the step where all matrices share it."""
    index = tl.program_id(0).to(tl.int64)
    g = _load(grad, m, index, M)
    x = _load(matrix, m, index, M)
    total = tl.zeros((M, M), tl.float32)
    if NORMALIZE:
        v = _load(inverse, m, index, M)
        degree = _degree(x, m, M)
        weighted = g * v
        grad_degree = tl.sum(weighted * degree[None, :], 1) + tl.sum(weighted * degree[:, None], 0)
        total += (-0.5 * degree * degree * degree * grad_degree)[:, None]
        g = degree[:, None] * g * degree[None, :]
    if GLOBAL:
        # Once more forward, leaving every iterate behind.
        step = tl.load(start)
        v = step * x
        for i in range(iterations):
            _store(history, v, m, index * iterations + i, M)
            v = 2.0 * v - _dot(_dot(v, x, PRECISION), v, PRECISION)
        tl.debug_barrier()  # other threads read what these wrote
        for i in range(iterations):
            v = _load(history, m, index * iterations + (iterations - 1 - i), M)
            transposed = tl.trans(v)
            vg = _dot(transposed, g, PRECISION)
            total -= _dot(vg, transposed, PRECISION)
            right = _dot(_dot(g, transposed, PRECISION), tl.trans(x), PRECISION)
            g = 2.0 * g - right - _dot(tl.trans(x), vg, PRECISION)
        total += step * g
        tl.store(grad_start + index, tl.sum(tl.sum(g * x, 1), 0))
    else:
        transposed = tl.trans(_load(inverse, m, index, M))
        total -= _dot(_dot(transposed, g, PRECISION), transposed, PRECISION)
    _store(grad_matrix, total, m, index, M)


def _options(m: int) -> dict:
    # Three tf32 products are as good as one of float32, which tensor cores don't have.
    return dict(M=max(16, triton.next_power_of_2(m)), PRECISION="tf32x3", num_warps=4)


def forward(matrix: Tensor, method: str, max_iter: int, normalize: bool) -> tuple[Tensor, Tensor, Tensor]:
    m = matrix.shape[-1]
    matrices = matrix.reshape(-1, m, m).float().contiguous()
    count = matrices.shape[0]
    out, inverse = (matrix.new_empty(matrix.shape, dtype=torch.float32) for _ in range(2))
    options = _options(m)
    shared = method == "global"
    start = _global_start(matrices, options) if shared else inverse.new_empty(1)
    if max_iter <= _MOST_HALF:
        options = {**options, "PRECISION": "fp16x3"}
    invert[(count,)](matrices, out, inverse, start, m, max_iter, GLOBAL=shared, NORMALIZE=normalize, **options)
    return out.to(matrix.dtype), inverse, start


def _global_start(matrices: Tensor, options: dict) -> Tensor:
    """The step that all matrices share, found without asking the host."""
    count, m = matrices.shape[:2]
    largest = matrices.new_empty(count)
    largest_rows[(count,)](matrices, largest, m, M=options["M"])
    largest = largest.amax(0, keepdim=True)
    residual = largest.new_empty((count, STARTS))
    residuals[(count,)](matrices, largest, residual, m, STARTS=STARTS, **options)
    halvings = (residual.amax(0)[:-1] > 1.01).cumprod(0).sum()
    return 2.0 / largest.square() * torch.exp2(-halvings)


def backward(
    grad: Tensor, matrix: Tensor, method: str, max_iter: int, normalize: bool, inverse: Tensor, start: Tensor
) -> tuple[Tensor]:
    m = matrix.shape[-1]
    matrices, grads = (x.reshape(-1, m, m).float().contiguous() for x in (matrix, grad))
    count = matrices.shape[0]
    shared = method == "global"
    grad_matrix = torch.empty_like(matrices)
    grad_start = inverse.new_empty(count)
    history = inverse.new_empty((count, max_iter, m, m) if shared else (1,))
    differentiate[(count,)](
        grads, matrices, inverse, start, history, grad_matrix, grad_start, m, max_iter, GLOBAL=shared,
        NORMALIZE=normalize, **_options(m),
    )  # fmt: skip
    if shared:
        # The step is 2 / (largest row sum)^2, halved: what it owes goes to the largest rows.
        rows = matrices.sum(-1)
        largest = rows.amax()
        at_most = rows == largest
        share = -2.0 * start * grad_start.sum() / (largest * at_most.sum())
        grad_matrix = grad_matrix + (share * at_most).unsqueeze(-1)
    return (grad_matrix.to(matrix.dtype).reshape(matrix.shape),)
