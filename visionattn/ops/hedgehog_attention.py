"""Hedgehog: linear attention with feature maps that learn to mimic the weights of softmax attention."""

from __future__ import annotations

from typing import Optional

import torch
from torch import Tensor

from visionattn.ops import _arguments as check
from visionattn.ops import _operators, reference
from visionattn.ops.linear_attention import linear_attention

__all__ = ["hedgehog_attention", "hedgehog_distillation_loss", "hedgehog_features"]

ACTIVATIONS = ("softmax", "exp", "joint")
EPS = 1e-12


def hedgehog_features(
    x: Tensor,
    weight: Tensor,
    bias: Optional[Tensor] = None,
    activation: str = "softmax",
    skip: bool = False,
    two_sided: bool = True,
) -> Tensor:
    """Positive features of queries or keys: softmaxes of a linear map and of its negative, side by side.

    Args:
        x: `[batch, heads, tokens, head_dim]`, any floating dtype.
        weight: `[heads, head_dim, features]`, or `[1, ...]` for one map that all heads share; any floating dtype.
        bias: `[heads or 1, features]`, or None.
        activation: Of the mapped `y`: `"softmax"`: `[softmax(y), softmax(-y)]`; `"exp"`: `[exp(y - max y),
            exp(min y - y)]`; `"joint"`: `softmax([2 y, -2 y])`, as flash-linear-attention has it.
        skip: Whether to add `x` to the mapped `y`; features must be head_dim then.
        two_sided: Whether the side of `-y` is there, not for `"joint"`.

    Returns:
        `[batch, heads, tokens, 2 * features]` (one-sided: `features`), float32 (float64 for float64), at least 1e-12
        unless joint.

    Raises:
        TypeError: an argument of the wrong type or dtype.
        ValueError: shapes or values that do not fit.

    Source: The Hedgehog & the Porcupine (Zhang et al., ICLR 2024, arXiv:2402.04347), section 4.2; code of LoLCATs.
    """
    check.check_tensor("x", x, 4)
    check.check_tensor("weight", weight, 3)
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation must be one of {', '.join(map(repr, ACTIVATIONS))}, got {activation!r}")
    if weight.shape[0] not in (1, x.shape[1]) or weight.shape[1] != x.shape[3]:
        wanted = f"[heads, head_dim, features] = [1 or {x.shape[1]}, {x.shape[3]}, any]"
        raise ValueError(f"weight must have shape {wanted}, got {list(weight.shape)}")
    if bias is not None:
        check.check_tensor("bias", bias, 2)
        check.check_shape("bias", bias, [weight.shape[0], weight.shape[2]], "[heads, features]")
    if skip and weight.shape[2] != x.shape[3]:
        raise ValueError(f"skip needs features to be head_dim, {x.shape[3]}, got weight {list(weight.shape)}")
    if activation == "joint" and not two_sided:
        raise ValueError("two_sided must be True for activation 'joint', got False")
    with _operators.without_autocast(x.device.type):
        return reference.hedgehog_features(x, weight, bias, activation, bool(skip), bool(two_sided))


def hedgehog_attention(query_features: Tensor, key_features: Tensor, value: Tensor, *, backend: str = "auto") -> Tensor:
    """Linear attention over `hedgehog_features`: `phi(q) (phi(K)^T V) / (phi(q) sum phi(k) + 1e-12)`.

    Args:
        query_features: `[batch, heads, tokens, features]`.
        key_features: `[batch, heads, tokens_kv, features]`.
        value: `[batch, heads, tokens_kv, value_dim]`, of any floating dtype.
        backend: As in `linear_attention`.

    Returns:
        `[batch, heads, tokens, value_dim]` in the dtype of `value`.

    Raises:
        TypeError, ValueError, NotImplementedError: as `linear_attention`.

    Source: The Hedgehog & the Porcupine (Zhang et al., ICLR 2024, arXiv:2402.04347), equation 2.
    """
    check.check_tensor("value", value, 4)
    check.check_tensor("query_features", query_features, 4)
    wide = value.to(query_features.dtype)
    with _operators.without_autocast(value.device.type):
        out = linear_attention(query_features, key_features, wide, "identity", EPS, backend=backend)
    return out.to(value.dtype)


def hedgehog_distillation_loss(query: Tensor, key: Tensor, query_features: Tensor, key_features: Tensor) -> Tensor:
    """Cross-entropy of linear attention's weights against softmax attention's, averaged over batch, heads and queries.

    Minimised over the feature maps alone, with queries and keys of a pretrained model. Memory is quadratic in tokens.

    Args:
        query: `[batch, heads, tokens, head_dim]` of the teacher, whose weights are `softmax(q k / sqrt(head_dim))`.
        key: `[batch, heads, tokens_kv, head_dim]`.
        query_features: `[batch, heads, tokens, features]`, see `hedgehog_features`.
        key_features: `[batch, heads, tokens_kv, features]`.

    Returns:
        A scalar.

    Source: The Hedgehog & the Porcupine (Zhang et al., ICLR 2024, arXiv:2402.04347), equation 4.
    """
    with _operators.without_autocast(query.device.type):
        wide = query.to(query_features.dtype)
        teacher = torch.softmax(wide @ key.to(wide.dtype).transpose(-2, -1) * query.shape[-1] ** -0.5, dim=-1)
        scores = query_features @ key_features.transpose(-2, -1)
        weights = scores / (scores.sum(-1, keepdim=True) + EPS)
        return -(teacher * weights.clamp(min=EPS).log()).sum(-1).mean()
