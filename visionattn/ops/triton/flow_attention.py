"""Kernels of `visionattn.ops.flow_attention`."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor

from visionattn.ops.flow_attention import allocate, padded
from visionattn.ops.triton import _flow_attention as kernels

__all__ = ["backward", "forward"]

MOST_SPLITS = 128
PROGRAMS = 4  # per processor, about


class Plan(NamedTuple):
    """What all launches for one problem share."""

    rows: int
    splits: int
    narrow: dict[str, int]  # compile-time sizes of sweeps over queries or keys alone
    wide: dict[str, Any]  # of the others, forward
    back: dict[str, Any]  # and backward, with tiles that leave their sums room in registers
    launch: dict[str, int]


@functools.lru_cache(maxsize=1024)
def _plan(device: torch.device, dtype: torch.dtype, query: torch.Size, value: torch.Size) -> Plan:
    batch, heads, tokens, dim = query
    sources, value_dim = value[2:]
    rows = batch * heads
    block, block_v = (padded(n) for n in (dim, value_dim))
    width = max(block, block_v)
    processors = torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 1
    pieces = triton.cdiv(max(tokens, sources), 128)
    splits = max(1, min(pieces, PROGRAMS * processors // rows, MOST_SPLITS))
    tile, warps = (64, 4) if width <= 64 else (32, 8)
    exact = "tf32x3" if dtype == torch.float32 and width <= 64 else "bf16x3"
    precision = "bf16" if dtype == torch.bfloat16 else exact
    rows_apart = 256 * warps // width  # before a thread, with 8 channels of each row of a tile, gets its next one
    narrow = dict(D=dim, BD=block, BN=tile, ROWS=max(1, min(tile, rows_apart)))
    wide = dict(narrow, DV=value_dim, BV=block_v, PRECISION=precision)
    # Gradients of queries are differences, which rounded factors would leave three times as far off.
    back = dict(wide, PRECISION=exact, BN=32, ROWS=max(1, min(32, rows_apart)))
    return Plan(rows, splits, narrow, wide, back, dict(num_warps=warps, num_stages=1))


def forward(
    query: Tensor, key: Tensor, value: Tensor, eps: float, flow_eps: float, clamp: bool
) -> tuple[Tensor, Tensor, Tensor]:
    rows, splits, narrow, wide, _, launch = _plan(query.device, query.dtype, query.shape, value.shape)
    out, vectors, state = allocate(query, value)
    (_, heads, tokens, _), sources = query.shape, key.shape[2]
    grid = (rows, splits)
    both = (query, *query.stride(), key, *key.stride())
    totals = state.new_empty((2, rows, splits, wide["BD"]))
    flow = torch.empty_like(totals)
    kernels.sums[(*grid, 2)](*both, totals, heads, tokens, sources, splits, rows, **narrow, **launch)
    kernels.flows[(*grid, 2)](
        *both, totals, flow, vectors, heads, tokens, sources, splits, rows, eps, flow_eps, **narrow, **launch
    )
    partial = state.new_empty((rows, splits, state.shape[1]))
    kernels.collect[grid](
        key, *key.stride(), value, *value.stride(), flow, partial, vectors, heads, sources, splits, rows, eps,
        flow_eps, **wide, **launch,
    )  # fmt: skip
    torch.sum(partial, 1, out=state)
    kernels.distribute[grid](
        query, *query.stride(), out, *out.stride(), flow, vectors, state, heads, tokens, sources, splits, rows, eps,
        flow_eps, **wide, **launch,
    )  # fmt: skip
    return out, vectors, state


def backward(
    grad: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    eps: float,
    flow_eps: float,
    clamp: bool,
    vectors: Tensor,
    state: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    rows, splits, _, _, wide, launch = _plan(query.device, query.dtype, query.shape, value.shape)
    (_, heads, tokens, _), sources = query.shape, key.shape[2]
    grid = (rows, splits)
    grad_query, grad_key, grad_value = (torch.empty_like(x) for x in (query, key, value))
    grad_b = state.new_empty((rows, splits, wide["BD"]))
    grad_sums = state.new_empty((3, rows, splits, wide["BD"]))
    partial = state.new_empty((rows, splits, state.shape[1]))
    queries = (query, *query.stride(), grad, *grad.stride())
    kernels.collect_backward[grid](
        *queries, vectors, state, partial, grad_b, heads, tokens, sources, splits, rows, eps, flow_eps, **wide, **launch
    )
    grad_state = partial.sum(1)
    keys = (key, *key.stride(), value, *value.stride(), grad_key, *grad_key.stride(), grad_value, *grad_value.stride())
    rest = (vectors, state, grad_state, grad_b, grad_sums, heads, sources, splits, rows, eps, flow_eps)
    kernels.keys_backward[grid](*keys, *rest, LAST=False, **wide, **launch)
    kernels.queries_backward[grid](
        *queries, grad_query, *grad_query.stride(), vectors, state, grad_sums, heads, tokens, sources, splits, rows,
        eps, flow_eps, **wide, **launch,
    )  # fmt: skip
    kernels.keys_backward[grid](*keys, *rest, LAST=True, **wide, **launch)
    return grad_query, grad_key, grad_value
