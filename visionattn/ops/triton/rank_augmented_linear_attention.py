"""Kernels of `visionattn.ops.rank_augmented_linear_attention`."""

from __future__ import annotations

from typing import Optional

from torch import Tensor

from visionattn.ops.linear_attention import allocate
from visionattn.ops.triton import _linear_launch as launch

__all__ = ["backward", "forward"]

_ATTENTION = launch.Attention("elu", "divide", weighted=True, vectors=3)


def forward(
    query: Tensor, key: Tensor, value: Tensor, angle: Optional[Tensor], height: int, width: int, eps: float
) -> tuple[Tensor, Tensor]:
    out, row = allocate(query, value, vectors=3)
    launch.forward(_ATTENTION, out, row, query, key, value, angle, height, width, eps)
    return out, row


def backward(
    grad: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    angle: Optional[Tensor],
    height: int,
    width: int,
    eps: float,
    row: Tensor,
) -> tuple[Optional[Tensor], ...]:
    grads = launch.backward(_ATTENTION, grad, row, query, key, value, angle, height, width, eps)
    return *grads[:3], None
