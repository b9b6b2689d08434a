"""Newton-Schulz iteration for the (pseudo-)inverse of Gram matrices, as SOFT and SOFT++ run it.

Sources: SOFT (Lu et al., NeurIPS 2021, arXiv:2110.11945) and Softmax-free Linear Transformers (Lu et al., IJCV 2024,
arXiv:2207.03341), with the constants of their released code.
"""

# No `from __future__ import annotations` here: TorchScript reads the annotations.
from typing import Tuple

import torch
from torch import Tensor


def global_start(matrix: Tensor) -> Tensor:
    """The step that all matrices of the batch share: `2 / max(row sums)^2`, halved while the residual is too large.

    Args:
        matrix: `[..., m, m]`.

    Returns:
        A scalar, differentiable through the row sums alone.
    """
    fixed = matrix.detach()
    square = fixed @ fixed
    identity = torch.eye(matrix.shape[-1], dtype=matrix.dtype, device=matrix.device)
    start = 2.0 / fixed.sum(-1).amax().square()
    factor = torch.ones_like(start)
    for _ in range(10):  # of fixed length, so that no value has to travel to the host
        residual = (identity - square * (start * factor)).abs().sum(-2).amax()
        factor = torch.where(residual > 1.01, factor / 2, factor)
    return 2.0 / matrix.sum(-1).amax().square() * factor


def damped_start(matrix: Tensor) -> Tuple[Tensor, Tensor]:
    """The matrices `matrix + 0.01 I` that are inverted, and the step `1.8 / max(row sums)^2` of each."""
    identity = torch.eye(matrix.shape[-1], dtype=matrix.dtype, device=matrix.device)
    start = 1.8 / matrix.sum(-1).amax(-1).square()
    return matrix + 0.01 * identity, start[..., None, None]


def iterate(matrix: Tensor, start: Tensor, max_iter: int) -> Tensor:
    """`V <- 2 V - V matrix V`, `max_iter` times from `start * matrix`."""
    inverse = start * matrix
    for _ in range(max_iter):
        inverse = 2 * inverse - (inverse @ matrix) @ inverse
    return inverse


def newton_inverse(matrix: Tensor, method: str, max_iter: int, normalize: bool) -> Tensor:
    """The definition of `visionattn.ops.newton_inverse`; half precision is computed in float32."""
    wide = matrix.to(torch.promote_types(matrix.dtype, torch.float32))
    if wide.numel() == 0:  # no largest row sum to be had
        return matrix * 1
    if method == "damped":
        damped, start = damped_start(wide.detach())
        inverse = iterate(damped, start, max_iter)
        if wide.requires_grad:
            # Zero, but with the gradient -V^T G V^T of an inverse, wherever the iteration has come to.
            inverse = inverse - (inverse @ (wide - wide.detach())) @ inverse
    else:
        inverse = iterate(wide, global_start(wide), max_iter)
    if normalize:
        degree = wide.sum(-1).rsqrt()
        inverse = degree.unsqueeze(-1) * inverse * degree.unsqueeze(-2)
    return inverse.to(matrix.dtype)
