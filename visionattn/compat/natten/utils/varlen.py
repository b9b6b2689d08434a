"""Offsets of packed sequences: sequences of varying length laid end to end in a batch of one."""

from __future__ import annotations

from typing import Optional

import torch
from torch import Tensor

__all__ = ["generate_varlen_parameters"]


def generate_varlen_parameters(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    seqlens_Q: Optional[Tensor],
    seqlens_KV: Optional[Tensor],
) -> tuple[Optional[Tensor], Optional[Tensor], int, int]:
    """Offsets and largest lengths of packed sequences.

    Args:
        query: `[1, tokens_q, heads, head_dim]`.
        key: `[1, tokens_kv, heads_kv, head_dim]`.
        value: `[1, tokens_kv, heads_kv, head_dim_value]`.
        seqlens_Q: int32 `[sequences]`, length of each query sequence; None together with `seqlens_KV` means no packing.
        seqlens_KV: int32 `[sequences]`, length of each key sequence.

    Returns:
        `cumulative_seqlen_Q`, `cumulative_seqlen_KV` (int32 `[sequences + 1]`, from 0), `max_seqlen_Q`,
        `max_seqlen_KV`; `(None, None, 0, 0)` without packing.

    Raises:
        TypeError: lengths that are not int32 tensors.
        ValueError: a batch other than 1, or lengths that do not add up to the tokens.
        RuntimeError: called inside torch.compile, which can't read the lengths.
    """
    if torch.compiler.is_compiling():
        raise RuntimeError("generate_varlen_parameters reads the lengths, so call it outside of torch.compile")
    if seqlens_Q is None and seqlens_KV is None:
        return None, None, 0, 0
    offsets, largest = [], []
    for name, lengths, tokens in (("seqlens_Q", seqlens_Q, query), ("seqlens_KV", seqlens_KV, key)):
        if not isinstance(lengths, Tensor) or lengths.dtype != torch.int32 or lengths.dim() != 1:
            raise TypeError(f"{name} must be an int32 tensor with one axis, got {lengths!r}")
        if tokens.shape[0] != 1:
            raise ValueError(f"packed sequences need a batch of 1, got {tokens.shape[0]}")
        if (lengths.numel() and int(lengths.min()) < 0) or int(lengths.sum()) != tokens.shape[1]:
            raise ValueError(f"{name} must add up to the {tokens.shape[1]} tokens, got {lengths.tolist()}")
        offsets.append(torch.nn.functional.pad(lengths.cumsum(0, dtype=torch.int32), (1, 0)))
        largest.append(int(lengths.max()) if lengths.numel() else 0)
    if seqlens_Q.numel() != seqlens_KV.numel():
        raise ValueError(f"seqlens_Q and seqlens_KV differ in number: {seqlens_Q.numel()} and {seqlens_KV.numel()}")
    if value.shape[:2] != key.shape[:2]:
        raise ValueError(f"value must have the tokens of key, {tuple(key.shape[:2])}, got {tuple(value.shape[:2])}")
    return offsets[0], offsets[1], largest[0], largest[1]
