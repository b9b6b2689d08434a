"""Flow-Attention: linear attention as a flow network, in which sources compete and sinks are allocated their share."""

from __future__ import annotations

from typing import Optional

import torch
from torch import Tensor

from visionattn.ops import _operators, reference
from visionattn.ops._triton import TritonOperator
from visionattn.ops.linear_attention import checked_tokens

__all__ = ["causal_flow_attention", "flow_attention", "mobile_attention"]


def flow_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    eps: float = 1e-6,
    flow_eps: float = 1e-6,
    clamp: bool = True,
    *,
    backend: str = "auto",
) -> Tensor:
    """Flow-Attention between queries (sinks) and keys (sources); all sums are float32 (float64 for float64).

    With `q = sigmoid(query)`, `k = sigmoid(key)` and `<a, b> = sum (a + eps) (b + eps) + flow_eps`:
    `I_i = 1 / <q_i, sum_j k_j>`, `O_j = 1 / <k_j, sum_i q_i>`, `sink_i = <q_i, sum_j k_j O_j>`,
    `source_j = <k_j, sum_i q_i I_i>`, `c_j = N_kv softmax_j(source)` and
    `out_i = sigmoid(sink_i N / N_kv) I_i q_i sum_j k_j (c_j v_j)`.

    Args:
        query: `[batch, heads, tokens, head_dim]`, any floating dtype; a raw projection, without a factor.
        key: `[batch, heads, tokens_kv, head_dim]`.
        value: `[batch, heads, tokens_kv, value_dim]`.
        eps: Added to every component of both factors of an inner product.
        flow_eps: Added to the inner products; 1e-6 in the released vision model, 0 in the released stand-alone module.
        clamp: Whether `source` is clamped to [-1, 1], as released. It is 1 on average, so about half of all tokens sit
            on the bound and get no gradient through the competition.
        backend: `"auto"`: Triton kernels on CUDA for clamped flow and head dims up to 128, else plain PyTorch;
            `"reference"`: plain PyTorch; `"triton"`: the kernels or an error.

    Returns:
        `[batch, heads, tokens, value_dim]` in the dtype of `query`.

    Raises:
        TypeError: an argument of the wrong type or dtype.
        ValueError: shapes or devices that do not fit.
        NotImplementedError: `backend="triton"` where the kernels can't serve; the message says why.

    Source: Flowformer (Wu et al., ICML 2022, arXiv:2202.06258), equations 4-8, and its released code.
    """
    query, key, value = checked_tokens(query, key, value)
    return _OPERATOR(backend, query, key, value, float(eps), float(flow_eps), bool(clamp))


def causal_flow_attention(query: Tensor, key: Tensor, value: Tensor, eps: float = 1e-6, clamp: bool = True) -> Tensor:
    """Flow-Attention in which a token sees no later one; as `flow_attention` with `flow_eps = 0` and running sums.

    Takes time and memory quadratic in tokens.

    Args:
        query: `[batch, heads, tokens, head_dim]`.
        key: Like `query`.
        value: `[batch, heads, tokens, value_dim]`.
        eps: As in `flow_attention`, and so is `clamp`.

    Returns:
        `[batch, heads, tokens, value_dim]` in the dtype of `query`.

    Raises:
        TypeError, ValueError: as `flow_attention`.

    Source: Flowformer (Wu et al., ICML 2022, arXiv:2202.06258), section 3.3, and its released code.
    """
    query, key, value = checked_tokens(query, key, value, self_attention=True)
    with _operators.without_autocast(query.device.type):
        return reference.causal_flow_attention(query, key, value, float(eps), bool(clamp))


def mobile_attention(query: Tensor, key: Tensor, value: Tensor, eps: float = 1e-6, clamp: bool = True) -> Tensor:
    """Flow-Attention whose flows run between the heads of a token: its sums over tokens are sums over heads.

    The softmax of sources and the sum of keys times values still run over tokens. Meant for many narrow heads.

    Args:
        query: `[batch, heads, tokens, head_dim]`.
        key: Like `query`.
        value: `[batch, heads, tokens, value_dim]`.
        eps: As in `flow_attention` with `flow_eps = 0`, and so is `clamp`.

    Returns:
        `[batch, heads, tokens, value_dim]` in the dtype of `query`.

    Raises:
        TypeError, ValueError: as `flow_attention`.

    Source: Mobile-Attention (Yao et al., ICML 2024) and its released code.
    """
    query, key, value = checked_tokens(query, key, value, self_attention=True)
    with _operators.without_autocast(query.device.type):
        return reference.mobile_attention(query, key, value, float(eps), bool(clamp))


def _limits(query: Tensor, key: Tensor, value: Tensor, eps: float, flow_eps: float, clamp: bool) -> Optional[str]:
    if not clamp:
        return "clamp is False"
    widest = max(query.shape[-1], value.shape[-1])
    return f"a head has {widest} channels, above 128" if widest > 128 else None


def padded(dim: int) -> int:
    """Channels of a head in the kernels: a power of two, at least what tensor cores multiply."""
    return max(16, 1 << (dim - 1).bit_length())


def allocate(query: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """An empty output, and what the kernels keep for backward: four vectors and one matrix per batch entry and head."""
    batch, heads, tokens, dim = query.shape
    value_dim = value.shape[3]
    out = torch.empty_like(query) if dim == value_dim else query.new_empty((batch, heads, tokens, value_dim))
    vectors = query.new_empty((4, batch * heads, padded(dim)), dtype=torch.float32)
    return out, vectors, vectors.new_empty((batch * heads, padded(dim) * padded(value_dim) + 4))


_OPERATOR = TritonOperator(
    "flow_attention",
    "Tensor query, Tensor key, Tensor value, float eps, float flow_eps, bool clamp",
    lambda query, key, value, *rest: allocate(query, value),
    2,
    _limits,
)
