"""Kernels of `visionattn.ops.circular_attention`."""

from __future__ import annotations

import math
from typing import Any, NamedTuple, Optional

import torch
import triton
from torch import Tensor

from visionattn.ops.triton import _circular_attention as kernels

__all__ = ["backward", "forward"]

SIDE = 8  # of a tile
EXTRA_BLOCK = 32  # extra keys that a step takes
QUERY_BLOCK = 64  # queries that a step of the extra keys' gradient takes
LOG2_E = 1.4426950408889634


class Plan(NamedTuple):
    """What all launches for one problem share."""

    grid: tuple[int, int]
    sizes: tuple[int, ...]  # heads, height, width, tiles down, tiles across
    disc: tuple[float, int]  # square of the radius, tiles that it reaches
    dims: dict[str, int]
    launch: dict[str, int]


def _plan(query: Tensor, height: int, width: int, radius: float) -> Plan:
    batch, heads, _, dim = query.shape
    rows, columns = triton.cdiv(height, SIDE), triton.cdiv(width, SIDE)
    reach = math.ceil(radius) - 1
    dims = dict(D=dim, BD=max(16, triton.next_power_of_2(dim)), SIDE=SIDE)
    wide = dims["BD"] * query.element_size() > 128
    return Plan(
        (rows * columns, batch * heads),
        (heads, height, width, rows, columns),
        (radius * radius, triton.cdiv(reach, SIDE)),
        dims,
        dict(num_warps=8 if wide else 4, num_stages=1 if wide else 2),
    )


def _dense(x: Optional[Tensor]) -> Optional[Tensor]:
    """`x` with its last axis dense."""
    return x if x is None or x.stride(-1) == 1 else x.contiguous()


def _strided(*tensors: Tensor) -> list[Any]:
    """Each tensor followed by its first three strides."""
    return [item for x in tensors for item in (x, *x.stride()[:3])]


def forward(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    extra_key: Optional[Tensor],
    extra_value: Optional[Tensor],
    height: int,
    width: int,
    radius: float,
    scale: float,
) -> tuple[Tensor, Tensor]:
    query, key, value = map(_dense, (query, key, value))
    plan = _plan(query, height, width, radius)
    out = query.new_empty(query.shape)
    lse = query.new_empty(query.shape[:3], dtype=torch.float32)
    extras = 0 if extra_key is None else extra_key.shape[2]
    if extras:
        extra_key, extra_value = extra_key.contiguous(), extra_value.contiguous()
    kernels.forward[plan.grid](
        *_strided(query, key, value), extra_key, extra_value, *_strided(out), lse, *plan.sizes, extras, *plan.disc,
        scale * LOG2_E, BE=EXTRA_BLOCK, EXTRAS=extras > 0, **plan.dims, **plan.launch,
    )  # fmt: skip
    return out, lse


def backward(
    grad: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    extra_key: Optional[Tensor],
    extra_value: Optional[Tensor],
    height: int,
    width: int,
    radius: float,
    scale: float,
    out: Tensor,
    lse: Tensor,
) -> tuple[Optional[Tensor], ...]:
    grad, query, key, value = map(_dense, (grad, query, key, value))
    plan = _plan(query, height, width, radius)
    grad_query, grad_key, grad_value = (x.new_empty(x.shape) for x in (query, key, value))
    delta = torch.empty_like(lse)
    extras = 0 if extra_key is None else extra_key.shape[2]
    if extras:
        extra_key, extra_value = extra_key.contiguous(), extra_value.contiguous()
    kernels.backward_queries[plan.grid](
        *_strided(query, key, value), extra_key, extra_value, *_strided(out, grad), lse, delta, *_strided(grad_query),
        *plan.sizes, extras, *plan.disc, scale * LOG2_E, scale, BE=EXTRA_BLOCK, EXTRAS=extras > 0,
        **plan.dims, **plan.launch,
    )  # fmt: skip
    kernels.backward_keys[plan.grid](
        *_strided(query, key, value, grad), lse, delta, *_strided(grad_key, grad_value), *plan.sizes, *plan.disc,
        scale * LOG2_E, scale, **plan.dims, **plan.launch,
    )  # fmt: skip
    if not extras:
        return grad_query, grad_key, grad_value, None, None
    lines, tokens, heads = plan.grid[1], height * width, query.shape[1]
    splits = max(1, min(triton.cdiv(tokens, 4 * QUERY_BLOCK), 64))
    shape = (*query.shape[:2], splits, extras, query.shape[3])
    partial_key, partial_value = lse.new_empty(shape), lse.new_empty(shape)
    dims = dict(D=plan.dims["D"], BD=plan.dims["BD"], BN=QUERY_BLOCK, BE=EXTRA_BLOCK)
    kernels.backward_extra[(triton.cdiv(extras, EXTRA_BLOCK), splits, lines)](
        *_strided(query), extra_key, extra_value, *_strided(grad), lse, delta, partial_key, partial_value, heads,
        tokens, extras, splits, scale * LOG2_E, scale, **dims, **plan.launch,
    )  # fmt: skip
    return (
        grad_query,
        grad_key,
        grad_value,
        partial_key.sum(2).to(query.dtype),
        partial_value.sum(2).to(query.dtype),
    )
