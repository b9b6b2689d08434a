"""Inverse of many small Gram matrices by a Newton-Schulz iteration, as SOFT and SOFT++ take it: products alone."""

from __future__ import annotations

from typing import Optional

import torch
from torch import Tensor

from visionattn.ops import _arguments as check
from visionattn.ops._triton import TritonOperator

__all__ = ["METHODS", "newton_inverse"]

METHODS = ("damped", "global")


def check_method(method: str, max_iter: int) -> None:
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(map(repr, METHODS))}, got {method!r}")
    if isinstance(max_iter, bool) or not isinstance(max_iter, int):
        raise TypeError(f"max_iter must be an int, got {type(max_iter).__name__}")
    if max_iter < 0:
        raise ValueError(f"max_iter must be at least 0, got {max_iter}")


def newton_inverse(
    matrix: Tensor, method: str = "damped", max_iter: int = 20, normalize: bool = False, *, backend: str = "auto"
) -> Tensor:
    """The inverse of symmetric positive definite matrices by `V <- 2 V - V P V`, `max_iter` times.

    There is no test of convergence: eigenvalues far below the largest row sum (below 1/1374 of it after 20 iterations)
    come out suppressed rather than inverted, as in a truncated pseudo-inverse; the released weights are used to that.
    Computed in float32 (float64 for float64) whatever autocast says; half precision would be off by percents.

    Args:
        matrix: `[..., m, m]`, symmetric with positive entries as Gaussian kernels are; any floating dtype.
        method: `"damped"`, of SOFT's released code: inverts `P = matrix + 0.01 I` from
            `1.8 P / max(row sums of the matrix)^2`. Its gradient is that of an inverse, `-V^T G V^T`, with the `V`
            that is returned. `"global"`, of SOFT++ and of SOFT's first code: inverts `P = matrix` from
            `2 a P / max(row sums of all matrices)^2`, with one `a` that is halved, at most 10 times, until the largest
            column sum of `|I - P V|` is at most 1.01; matrices of a batch thus depend on each other unless they
            converge. Its gradient is that of the iteration.
        max_iter: Iterations.
        normalize: Whether to scale rows and columns by `matrix.sum(-1) ** -0.5`, as SOFT++ does.
        backend: `"auto"`: a Triton kernel on CUDA for m up to 64, else plain PyTorch; `"reference"`: plain
            PyTorch; `"triton"`: the kernel, or NotImplementedError.

    Returns:
        `[..., m, m]` in the dtype of `matrix`.

    Raises:
        TypeError: an argument of the wrong type or dtype.
        ValueError: a matrix that is not square, or a value out of range.

    Sources: SOFT (Lu et al., NeurIPS 2021, arXiv:2110.11945), section 3.2; Softmax-free Linear Transformers (Lu et al.,
    IJCV 2024, arXiv:2207.03341), section 3.3; constants of the released code.
    """
    check.check_tensor("matrix", matrix)
    if matrix.dim() < 2 or matrix.shape[-1] != matrix.shape[-2]:
        raise ValueError(f"matrix must have shape [..., m, m], got {list(matrix.shape)}")
    check_method(method, max_iter)
    return _OPERATOR(backend, matrix, method, max_iter, bool(normalize))


def _fake(matrix: Tensor, method: str, max_iter: int, normalize: bool) -> tuple[Tensor, ...]:
    wide = matrix.new_empty(matrix.shape, dtype=torch.float32)
    return matrix.new_empty(matrix.shape), wide, wide.new_empty(1)


def _limits(matrix: Tensor, *rest: object) -> Optional[str]:
    size = matrix.shape[-1]
    return f"the matrices are {size} x {size}, above {_LARGEST}" if size > _LARGEST else None


_LARGEST = 64  # of the kernels
_OPERATOR = TritonOperator(
    "newton_inverse", "Tensor matrix, str method, int max_iter, bool normalize", _fake, 2, _limits, kept=(0,)
)
