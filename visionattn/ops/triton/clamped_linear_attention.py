"""Kernels of `visionattn.ops.clamped_linear_attention`."""

from __future__ import annotations

from torch import Tensor

from visionattn.ops.triton import _linear_launch as launch

__all__ = ["backward", "forward"]

_ATTENTION = launch.Attention("relu", "clamp", grad_vectors=2)


def forward(query: Tensor, key: Tensor, value: Tensor, scale: Tensor, minimum: float) -> tuple[Tensor, Tensor]:
    return launch.forward(_ATTENTION, query, key, value, eps=minimum, factors=scale)


def backward(
    grad: Tensor, query: Tensor, key: Tensor, value: Tensor, scale: Tensor, minimum: float, row: Tensor
) -> tuple[Tensor, ...]:
    *grads, sums = launch.backward(_ATTENTION, grad, row, query, key, value, eps=minimum, factors=scale)
    dim, value_dim = query.shape[3], value.shape[3]
    grad_scale = sums[:, dim * value_dim + max(dim, value_dim, 2)]  # the first number of the second vector
    return *grads, grad_scale.unflatten(0, query.shape[:2]).sum(0)
