"""Kernels of `visionattn.ops.linear_attention`."""

from __future__ import annotations

from torch import Tensor

from visionattn.ops.triton import _linear_launch as launch

__all__ = ["backward", "forward"]

_ATTENTIONS = {name: launch.Attention(name, "divide") for name in ("elu", "relu", "identity")}


def forward(query: Tensor, key: Tensor, value: Tensor, feature_map: str, eps: float) -> tuple[Tensor, Tensor]:
    return launch.forward(_ATTENTIONS[feature_map], query, key, value, eps=eps)


def backward(
    grad: Tensor, query: Tensor, key: Tensor, value: Tensor, feature_map: str, eps: float, row: Tensor
) -> tuple[Tensor, ...]:
    return launch.backward(_ATTENTIONS[feature_map], grad, row, query, key, value, eps=eps)[:3]
