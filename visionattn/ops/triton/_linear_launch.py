"""Launches the kernels of `_linear_attention` for the operators."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any, Dict, NamedTuple, Optional, Tuple

import torch
import triton
from torch import Tensor

from visionattn.ops.triton import _linear_attention as kernels

__all__ = ["Attention", "backward", "forward"]

KERNELS = ("prepare", "collect", "distribute", "collect_backward", "distribute_backward")
CHUNK = 128  # tokens that a part has at least, and a multiple of
MOST_PARTS = 512
PROGRAMS = 4  # per processor, about
BLOCK = 256  # numbers that a program of `merge` adds up
GROUP = 16  # splits that it adds at a time


@dataclass(frozen=True)
class Attention:
    """One attention's switches; see `_linear_attention`.

    Attributes:
        feature: Feature map.
        norm: Normalisation.
        weighted: Whether keys are weighted by the mean query.
        vectors: Vectors that a row holds after `S`.
        grad_vectors: Vectors that a row of gradients holds.
    """

    feature: str
    norm: str
    weighted: bool = False
    vectors: int = 1
    grad_vectors: int = 1


class Split(NamedTuple):
    """How tokens are shared out: `count` parts of `chunk` tokens."""

    count: int
    chunk: int


@dataclass(frozen=True)
class Plan:
    """What all launches for one problem share.

    Attributes:
        rows: Batch entries times heads.
        queries: Parts of the queries.
        keys: Parts of the keys.
        dims: Compile-time sizes.
        options: Compile-time switches.
        tuning: Tile and launch options per kernel.
    """

    rows: int
    queries: Split
    keys: Split
    dims: Dict[str, int]
    options: Dict[str, Any]
    tuning: Dict[str, Dict[str, int]]


def tuned(kernel: str, width: int, rotary: bool) -> Dict[str, int]:
    """Tile (tokens, a divisor of `CHUNK`) and launch options of a kernel, for channels padded to `width`."""
    return dict(BN=64, num_warps=4 if width <= 32 else 8, num_stages=1 if rotary else 2)


def _share(tokens: int, rows: int, programs: int) -> Split:
    """Parts such that all `rows` together have about `programs`."""
    pieces = triton.cdiv(tokens, CHUNK)
    chunk = triton.cdiv(pieces, max(1, min(pieces, programs // rows, MOST_PARTS)))
    return Split(triton.cdiv(pieces, chunk), chunk * CHUNK)


@functools.lru_cache(maxsize=1024)
def _plan(
    attention: Attention,
    device: torch.device,
    dtype: torch.dtype,
    query_shape: torch.Size,
    value_shape: torch.Size,
    rotary: bool,
) -> Plan:
    batch, heads, tokens, dim = query_shape
    keys, value_dim = value_shape[2:]
    rows = batch * heads
    # Tensor cores take at least 16 channels; a rotation halves them on the way.
    block_k = max(triton.next_power_of_2(dim), 32 if rotary else 16)
    block_v = max(triton.next_power_of_2(value_dim), 16)
    span = max(dim, value_dim, 2)
    length = dim * value_dim + attention.vectors * span
    options = dict(
        FEATURE=attention.feature,
        ROTARY=rotary,
        NORM=attention.norm,
        PRECISION="tf32x3" if dtype == torch.float32 else "bf16x3",
    )
    processors = torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 2
    return Plan(
        rows,
        _share(tokens, rows, PROGRAMS * processors),
        _share(keys, rows, PROGRAMS * processors),
        dict(DK=dim, DV=value_dim, BK=block_k, BV=block_v, SPAN=span, LENGTH=length),
        options,
        {kernel: tuned(kernel, max(block_k, block_v), rotary) for kernel in KERNELS},
    )


def _prepare(
    plan: Plan, query: Tensor, angle: Optional[Tensor], positions: int, weighted: bool
) -> Tuple[Optional[Tensor], Optional[Tensor]]:
    """The table of phases and the sums of the queries' features, each where it is needed."""
    table = sums = None
    programs = min(positions, 512)
    if angle is not None:
        table = angle.new_empty((2, positions, angle.shape[0]), dtype=torch.float32)
    if weighted:
        programs = plan.queries.count
        sums = query.new_empty((plan.rows * programs, query.shape[3]), dtype=torch.float32)
    if angle is not None or weighted:
        options = {name: plan.options[name] for name in ("FEATURE", "ROTARY")}
        kernels.prepare[(plan.rows if weighted else 1, programs)](
            query, *query.stride(), angle, table, sums, query.shape[1], query.shape[2], plan.queries.chunk, programs,
            positions, WEIGHTED=weighted, DK=plan.dims["DK"], BK=plan.dims["BK"], **options,
            **plan.tuning["prepare"],
        )  # fmt: skip
    return table, sums


def _merge(
    plan: Plan, norm: str, partial: Tensor, extremes: Optional[Tensor], row: Tensor, split: Split, keys: int
) -> None:
    """Sums over all splits, and what the readers want of them: scaled means where `norm` is "magnitude"."""
    matrix, span, length = plan.dims["DK"] * plan.dims["DV"], plan.dims["SPAN"], row.shape[1]
    merged = length if extremes is None else matrix + span
    scale = vector_scale = 1.0
    if norm == "magnitude":
        scale, vector_scale = plan.dims["DK"] ** -0.5 / keys, 1.0 / keys
    kernels.merge[(plan.rows, triton.cdiv(merged, BLOCK))](
        partial, extremes, row, split.count, scale, vector_scale, WEIGHTED=extremes is not None, MATRIX=matrix,
        SPAN=span, MERGED=merged, LENGTH=length, BLOCK=BLOCK, GROUP=GROUP, SPLITS=triton.next_power_of_2(split.count),
    )  # fmt: skip


def forward(
    attention: Attention,
    out: Tensor,
    row: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    angle: Optional[Tensor] = None,
    height: int = 1,
    width: int = 1,
    eps: float = 0.0,
    factors: Optional[Tensor] = None,
) -> None:
    """Fills `out` `[batch, heads, tokens, value_dim]` and `row` `[batch * heads, length]`."""
    plan = _plan(attention, query.device, query.dtype, query.shape, value.shape, angle is not None)
    heads, tokens, dim = query.shape[1:]
    count, chunk = plan.keys
    positions, weighted = max(height, width), attention.weighted
    table, sums = _prepare(plan, query, angle, positions, weighted)
    partial = row.new_empty((plan.rows * count, row.shape[1]))
    extremes = row.new_empty((plan.rows * count, 2)) if weighted else None
    kernels.collect[(plan.rows, count)](
        key, *key.stride(), value, *value.stride(), table, sums, partial, extremes, row, heads, key.shape[2], chunk,
        count, width, positions, dim**-0.5 / tokens, WEIGHTED=weighted, SPLITS=triton.next_power_of_2(count),
        **plan.dims, **plan.options, **plan.tuning["collect"],
    )  # fmt: skip
    _merge(plan, attention.norm, partial, extremes, row, plan.keys, key.shape[2])
    kernels.distribute[(plan.rows, plan.queries.count)](
        query, *query.stride(), out, *out.stride(), table, row, factors, heads, tokens, plan.queries.chunk, width,
        positions, eps, **plan.dims, **plan.options, **plan.tuning["distribute"],
    )  # fmt: skip


def backward(
    attention: Attention,
    grad: Tensor,
    row: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    angle: Optional[Tensor] = None,
    height: int = 1,
    width: int = 1,
    eps: float = 0.0,
    factors: Optional[Tensor] = None,
) -> Tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of query, key and value, and a row of summed gradients per batch entry and head."""
    plan = _plan(attention, query.device, query.dtype, query.shape, value.shape, angle is not None)
    heads, tokens, dim = query.shape[1:]
    count, chunk = plan.keys
    positions, weighted = max(height, width), attention.weighted
    grad_query, grad_key, grad_value = (torch.empty_like(x) for x in (query, key, value))
    length = plan.dims["DK"] * plan.dims["DV"] + attention.grad_vectors * plan.dims["SPAN"]
    partial = row.new_empty((plan.rows * plan.queries.count, length))
    grad_row = row.new_empty((plan.rows, length))
    sums = row.new_empty((plan.rows * count, dim)) if weighted else None
    table, _ = _prepare(plan, query, angle, positions, weighted=False)

    def sweep_queries(accumulate: bool, store: bool) -> None:
        kernels.collect_backward[(plan.rows, plan.queries.count)](
            query, *query.stride(), grad, *grad.stride(), grad_query, *grad_query.stride(), table, row, factors, sums,
            partial, heads, tokens, plan.queries.chunk, count, width, positions, eps, dim**-0.5 / tokens,
            WEIGHTED=weighted, ACCUMULATE=accumulate, STORE=store, GRAD_LENGTH=length,
            SPLITS=triton.next_power_of_2(count), **plan.dims, **plan.options, **plan.tuning["collect_backward"],
        )  # fmt: skip

    sweep_queries(accumulate=True, store=not weighted)
    _merge(plan, attention.norm, partial, None, grad_row, plan.queries, key.shape[2])
    kernels.distribute_backward[(plan.rows, count)](
        key, *key.stride(), value, *value.stride(), grad_key, *grad_key.stride(), grad_value, *grad_value.stride(),
        table, row, grad_row, sums, heads, key.shape[2], chunk, count, width, positions, WEIGHTED=weighted,
        GRAD_LENGTH=length, **plan.dims, **plan.options, **plan.tuning["distribute_backward"],
    )  # fmt: skip
    if weighted:
        sweep_queries(accumulate=False, store=True)
    return grad_query, grad_key, grad_value, grad_row
