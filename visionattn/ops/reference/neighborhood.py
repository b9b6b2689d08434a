"""Neighborhood attention in plain PyTorch: gather every query's window, then ordinary attention over it.

Sources: NAT (Hassani et al., 2023), DiNAT (Hassani and Shi, 2022), GNA (Hassani et al., 2025) for strides.
"""

from __future__ import annotations

import math
from typing import NamedTuple, Optional, Sequence

import torch
from torch import Tensor


class Windows(NamedTuple):
    """The windows of all queries. N = number of positions, W = product of the kernel sizes.

    Attributes:
        index: `[N, W]` int64, position of each attended key; an arbitrary valid one where `mask` is False.
        mask: `[N, W]` bool, whether the slot is attended.
        relative: `[N, W]` int64, entry of the flattened relative bias table.
    """

    index: Tensor
    mask: Tensor
    relative: Tensor


def _axis_windows(length: int, kernel: int, stride: int, dilation: int, causal: bool, device: torch.device) -> Windows:
    position = torch.arange(length, device=device)
    group, query = position % dilation, position // dilation
    group_length = (length - group + dilation - 1) // dilation
    first = query // stride * stride
    if causal:
        leader = torch.minimum(first + stride - 1, group_length - 1)
        begin = (leader - kernel + 1).clamp(min=0)
        end = query + 1
    else:
        leader = torch.minimum(first + stride // 2, group_length - 1)
        begin = torch.minimum(leader - kernel // 2, group_length - kernel).clamp(min=0)
        end = torch.minimum(begin + kernel, group_length)
    key = begin[:, None] + torch.arange(kernel, device=device)
    mask = key < end[:, None]
    key = torch.where(mask, key, query[:, None])
    return Windows(key * dilation + group[:, None], mask, key - query[:, None] + kernel - 1)


def windows(
    spatial: Sequence[int],
    kernel_size: Sequence[int],
    stride: Sequence[int],
    dilation: Sequence[int],
    is_causal: Sequence[bool],
    device: torch.device,
) -> Windows:
    """The windows of every position of a map of shape `spatial`: the outer product of the axes' windows."""
    result = None
    for length, kernel, step, gap, causal in zip(spatial, kernel_size, stride, dilation, is_causal):
        axis = _axis_windows(length, kernel, step, gap, bool(causal), device)
        if result is None:
            result = axis
            continue

        def outer(left: Tensor, right: Tensor) -> Tensor:
            # [N, W], [L, K] -> [N * L, W * K]
            return (left[:, None, :, None] + right[None, :, None, :]).flatten(2).flatten(0, 1)

        result = Windows(
            outer(result.index * length, axis.index),
            outer(result.mask.long(), axis.mask.long()) == 2,
            outer(result.relative * (2 * kernel - 1), axis.relative),
        )
    return result


def neighborhood_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    rpb: Optional[Tensor],
    additional_keys: Optional[Tensor],
    additional_values: Optional[Tensor],
    kernel_size: Sequence[int],
    stride: Sequence[int],
    dilation: Sequence[int],
    is_causal: Sequence[bool],
    scale: float,
) -> tuple[Tensor, Tensor]:
    """The definition of `visionattn::neighborhood_attention`; arguments as in `csrc/library.cpp`.

    Half precision is computed in float32. Takes memory proportional to N * prod(kernel_size).
    """
    dtype = query.dtype
    compute = torch.promote_types(dtype, torch.float32)
    spatial, heads_kv = query.shape[1:-2], key.shape[-2]
    index, mask, relative = windows(spatial, kernel_size, stride, dilation, is_causal, query.device)
    positions, slots = index.shape

    q = query.to(compute).flatten(1, -3).unflatten(2, (heads_kv, -1)) * scale  # [B, N, Hkv, G, D]
    k = key.to(compute).flatten(1, -3)[:, index.flatten()].unflatten(1, (positions, slots))  # [B, N, W, Hkv, D]
    v = value.to(compute).flatten(1, -3)[:, index.flatten()].unflatten(1, (positions, slots))
    logits = torch.einsum("bnhgd,bnwhd->bnhgw", q, k)
    if rpb is not None:
        bias = rpb.to(compute).flatten(1)[:, relative.flatten()].unflatten(1, (positions, slots))  # [H, N, W]
        logits = logits + bias.transpose(0, 1).unflatten(1, (heads_kv, -1))
    logits = logits.masked_fill(~mask[:, None, None, :], -math.inf)
    if additional_keys is not None:
        logits = torch.cat([logits, torch.einsum("bnhgd,bmhd->bnhgm", q, additional_keys.to(compute))], dim=-1)
    lse = logits.logsumexp(dim=-1)
    weights = (logits - lse.unsqueeze(-1)).exp()
    out = torch.einsum("bnhgw,bnwhd->bnhgd", weights[..., :slots], v)
    if additional_values is not None:
        out = out + torch.einsum("bnhgm,bmhd->bnhgd", weights[..., slots:], additional_values.to(compute))
    shape = query.shape[:-1]
    return out.reshape(*shape, value.shape[-1]).to(dtype), lse.reshape(shape)


def neighborhood_attention_qkv(
    qkv: Tensor,
    rpb: Optional[Tensor],
    kernel_size: Sequence[int],
    stride: Sequence[int],
    dilation: Sequence[int],
    is_causal: Sequence[bool],
    scale: float,
) -> tuple[Tensor, Tensor]:
    """The definition of `visionattn::neighborhood_attention_qkv`; arguments as in `csrc/library.cpp`."""
    area = kernel_size, stride, dilation, is_causal
    return neighborhood_attention(*qkv.unbind(-3), rpb, None, None, *area, scale)


def _gather(x: Tensor, index: Tensor) -> Tensor:
    """`[B, H, *spatial, D]` -> `[B, H, N, W, D]`."""
    return x.flatten(2, -2)[:, :, index.flatten()].unflatten(2, tuple(index.shape))


def neighborhood_qk(
    query: Tensor,
    key: Tensor,
    rpb: Optional[Tensor],
    kernel_size: Sequence[int],
    dilation: Sequence[int],
    is_causal: Sequence[bool],
) -> Tensor:
    """The definition of `visionattn::neighborhood_qk`; arguments as in `csrc/library.cpp`."""
    compute = torch.promote_types(query.dtype, torch.float32)
    spatial = query.shape[2:-1]
    index, mask, relative = windows(spatial, kernel_size, (1,) * len(spatial), dilation, is_causal, query.device)
    logits = torch.einsum("bhnd,bhnwd->bhnw", query.to(compute).flatten(2, -2), _gather(key.to(compute), index))
    if rpb is not None:
        logits = logits + rpb.to(compute).flatten(1)[:, relative.flatten()].unflatten(1, tuple(index.shape))
    logits = logits.masked_fill(~mask, -math.inf)
    return logits.reshape(*query.shape[:-1], index.shape[1]).to(query.dtype)


def neighborhood_av(
    attention: Tensor,
    value: Tensor,
    kernel_size: Sequence[int],
    dilation: Sequence[int],
    is_causal: Sequence[bool],
) -> Tensor:
    """The definition of `visionattn::neighborhood_av`; arguments as in `csrc/library.cpp`."""
    compute = torch.promote_types(value.dtype, torch.float32)
    spatial = value.shape[2:-1]
    index, mask, _ = windows(spatial, kernel_size, (1,) * len(spatial), dilation, is_causal, value.device)
    weights = attention.to(compute).flatten(2, -2).masked_fill(~mask, 0.0)
    out = torch.einsum("bhnw,bhnwd->bhnd", weights, _gather(value.to(compute), index))
    return out.reshape(value.shape).to(value.dtype)
