"""Full attention over flat tokens, and its merging: NATTEN's `attention` and `merge_attentions`."""

from __future__ import annotations

from itertools import pairwise
from typing import Any, Optional, Union

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from visionattn import ops
from visionattn.compat.natten import _tuning
from visionattn.compat.natten._neighborhood import refuse_unsupported_tensors
from visionattn.compat.natten.utils.varlen import generate_varlen_parameters

Result = Union[Tensor, tuple[Tensor, Tensor]]

# Logits that `_with_lse` holds at a time.
_MAX_LOGITS = 2**24


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    is_causal: bool = False,
    scale: Optional[float] = None,
    seqlens_Q: Optional[Tensor] = None,
    seqlens_KV: Optional[Tensor] = None,
    cumulative_seqlen_Q: Optional[Tensor] = None,
    cumulative_seqlen_KV: Optional[Tensor] = None,
    max_seqlen_Q: Optional[int] = None,
    max_seqlen_KV: Optional[int] = None,
    backend: Optional[str] = None,
    q_tile_size: Optional[int] = None,
    kv_tile_size: Optional[int] = None,
    backward_q_tile_size: Optional[int] = None,
    backward_kv_tile_size: Optional[int] = None,
    backward_kv_splits: Optional[int] = None,
    backward_use_pt_reduction: bool = False,
    run_persistent_kernel: bool = True,
    kernel_schedule: Optional[str] = None,
    torch_compile: bool = False,
    return_lse: bool = False,
) -> Result:
    """Softmax attention of every query over all keys, with NATTEN 0.21's arguments, on torch's own SDPA.

    Args:
        query: `[batch, tokens_q, heads, head_dim]`.
        key: `[batch, tokens_kv, heads_kv, head_dim]`; `heads` must be a multiple of `heads_kv`.
        value: `[batch, tokens_kv, heads_kv, head_dim_value]`.
        is_causal: Query i sees keys 0..i.
        scale: Factor on the logits; None or 0 means `head_dim ** -0.5`.
        seqlens_Q: int32 `[sequences]`: `query` holds sequences of these lengths end to end, in a batch of 1.
        seqlens_KV: The same of `key` and `value`; both or none.
        cumulative_seqlen_Q: int32 `[sequences + 1]`, offsets in place of lengths, from `generate_varlen_parameters`.
        cumulative_seqlen_KV: The same of `key` and `value`; both or none.
        max_seqlen_Q: Goes with the offsets; not needed here.
        max_seqlen_KV: Goes with the offsets; not needed here.
        return_lse: Also return the log-sum-exp of each query's logits, differentiable. Computed in plain PyTorch, in
            pieces, so memory stays linear.

    The other arguments choose NATTEN's kernels and tiles: they are checked and have no effect.

    Returns:
        Output `[batch, tokens_q, heads, head_dim_value]`, and with `return_lse` the lse `[batch, tokens_q, heads]`
        (float32; float64 for float64). A query without keys gets 0 and -inf.

    Raises:
        TypeError, ValueError: a wrong argument; the message names it.
        NotImplementedError: float8 or nested tensors.
    """
    _tuning.check_attention(
        backend=backend,
        q_tile_size=q_tile_size,
        kv_tile_size=kv_tile_size,
        backward_q_tile_size=backward_q_tile_size,
        backward_kv_tile_size=backward_kv_tile_size,
        backward_kv_splits=backward_kv_splits,
        backward_use_pt_reduction=backward_use_pt_reduction,
        run_persistent_kernel=run_persistent_kernel,
        kernel_schedule=kernel_schedule,
        torch_compile=torch_compile,
    )
    refuse_unsupported_tensors(query)
    _check_inputs(query, key, value)
    offsets = _offsets(query, key, value, seqlens_Q, seqlens_KV, cumulative_seqlen_Q, cumulative_seqlen_KV)
    attend = _with_lse if return_lse else _plain
    scale = scale or query.shape[-1] ** -0.5
    if offsets is None:
        return attend(query, key, value, is_causal, scale)
    parts = [
        attend(query[:, q0:q1], key[:, k0:k1], value[:, k0:k1], is_causal, scale)
        for (q0, q1), (k0, k1) in zip(*map(pairwise, offsets))
    ]
    if not parts:
        return attend(query, key, value, is_causal, scale)
    if not return_lse:
        return torch.cat(parts, dim=1)
    outputs, lses = zip(*parts)
    return torch.cat(outputs, dim=1), torch.cat(lses, dim=1)


def merge_attentions(
    outputs: list[Tensor],
    lse_tensors: list[Tensor],
    torch_compile: bool = True,
    use_autograd_fix: bool = True,
) -> tuple[Tensor, Tensor]:
    """Merges partial attentions of the same queries into attention over all their contexts together.

    Args:
        outputs: At least two `[batch, tokens, heads, head_dim]`.
        lse_tensors: As many `[batch, tokens, heads]`.
        torch_compile: Checked, no effect.
        use_autograd_fix: Checked, no effect: our lse tensors are differentiable, so gradients are exact without.

    Returns:
        Output and its lse.

    Raises:
        TypeError, ValueError: a wrong argument; the message names it.
    """
    for name, switch in (("torch_compile", torch_compile), ("use_autograd_fix", use_autograd_fix)):
        if not isinstance(switch, bool):
            raise TypeError(f"{name} must be a bool, got {switch!r}")
    if len(outputs) < 2:
        raise ValueError(f"outputs must be at least two tensors, got {len(outputs)}")
    return ops.merge_attentions(outputs, lse_tensors)


def _check_inputs(query: Any, key: Any, value: Any) -> None:
    for name, x in (("query", query), ("key", key), ("value", value)):
        if not isinstance(x, Tensor) or not x.is_floating_point():
            raise TypeError(f"{name} must be a floating-point tensor, got {getattr(x, 'dtype', type(x).__name__)}")
        if x.dim() != 4:
            raise ValueError(f"{name} must have shape [batch, tokens, heads, head_dim], got {list(x.shape)}")
        if x.dtype != query.dtype or x.device != query.device:
            raise ValueError(f"{name} must be {query.dtype} on {query.device} as query, got {x.dtype} on {x.device}")
    batch, _, heads, dim = query.shape
    if key.shape[0] != batch or key.shape[3] != dim:
        raise ValueError(f"key must have batch {batch} and head_dim {dim} of query, got shape {list(key.shape)}")
    if value.shape[:3] != key.shape[:3]:
        raise ValueError(f"value must have batch, tokens and heads of key, {list(key.shape)}, got {list(value.shape)}")
    if not key.shape[2] or heads % key.shape[2]:
        raise ValueError(f"key must have a number of heads that divides the {heads} of query, got {key.shape[2]}")


def _offsets(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    seqlens_q: Optional[Tensor],
    seqlens_kv: Optional[Tensor],
    cumulative_q: Optional[Tensor],
    cumulative_kv: Optional[Tensor],
) -> Optional[list[list[int]]]:
    """Offsets of packed query and key sequences; None without packing."""
    for q, kv, kind in ((seqlens_q, seqlens_kv, "seqlens"), (cumulative_q, cumulative_kv, "cumulative_seqlen")):
        if (q is None) != (kv is None):
            raise ValueError(f"{kind}_Q and {kind}_KV go together: one is None and the other is not")
    if seqlens_q is not None and cumulative_q is not None:
        raise ValueError("give seqlens_Q and seqlens_KV, or cumulative_seqlen_Q and cumulative_seqlen_KV, not both")
    if cumulative_q is not None:
        if (cumulative_q.numel() and int(cumulative_q[0])) or (cumulative_kv.numel() and int(cumulative_kv[0])):
            raise ValueError("cumulative_seqlen_Q and cumulative_seqlen_KV must start at 0")
        seqlens_q, seqlens_kv = cumulative_q.diff(), cumulative_kv.diff()
    elif seqlens_q is None:
        return None
    cumulative_q, cumulative_kv, _, _ = generate_varlen_parameters(query, key, value, seqlens_q, seqlens_kv)
    return [cumulative_q.tolist(), cumulative_kv.tolist()]


def _plain(query: Tensor, key: Tensor, value: Tensor, is_causal: bool, scale: float) -> Tensor:
    if not key.shape[1]:
        return query.new_zeros((*query.shape[:-1], value.shape[-1]))
    q, k, v = (x.transpose(1, 2) for x in (query, key, value))
    grouped = query.shape[2] != key.shape[2]
    return F.scaled_dot_product_attention(q, k, v, is_causal=is_causal, scale=scale, enable_gqa=grouped).transpose(1, 2)


def _with_lse(query: Tensor, key: Tensor, value: Tensor, is_causal: bool, scale: float) -> tuple[Tensor, Tensor]:
    """Output and lse, by pieces of queries; the backward recomputes the logits of a piece."""
    batch, tokens, heads, _ = query.shape
    rows = max(1, _MAX_LOGITS // max(1, batch * heads * key.shape[1]))
    pieces = []
    for first in range(0, max(tokens, 1), rows):
        arguments = (query[:, first : first + rows], key, value, first if is_causal else None, scale)
        if rows < tokens and torch.is_grad_enabled():
            pieces.append(checkpoint(_piece_with_lse, *arguments, use_reentrant=False))
        else:
            pieces.append(_piece_with_lse(*arguments))
    outputs, lses = zip(*pieces)
    return torch.cat(outputs, dim=1), torch.cat(lses, dim=1)


def _piece_with_lse(
    query: Tensor, key: Tensor, value: Tensor, first: Optional[int], scale: float
) -> tuple[Tensor, Tensor]:
    """Attention of some queries; `first` is the position of the first one if causal, else None."""
    compute = torch.promote_types(query.dtype, torch.float32)
    q = query.to(compute).unflatten(2, (key.shape[2], -1)) * scale  # [B, N, Hkv, G, D]
    logits = torch.einsum("bnhgd,bmhd->bnhgm", q, key.to(compute))
    if first is not None:
        position = torch.arange(query.shape[1], device=query.device)[:, None] + first
        later = torch.arange(key.shape[1], device=query.device) > position
        logits = logits.masked_fill(later[:, None, None, :], float("-inf"))
    lse = logits.logsumexp(dim=-1)
    weights = (logits - lse.unsqueeze(-1)).exp()
    out = torch.einsum("bnhgm,bmhd->bnhgd", weights, value.to(compute))
    return out.flatten(2, 3).to(query.dtype), lse.flatten(2, 3)
