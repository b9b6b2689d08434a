"""Launches the kernels of `_linear_forward` and `_linear_backward` for the operators."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from typing import Any, Callable, Dict, NamedTuple, Optional, Tuple

import torch
import triton
from torch import Tensor

from visionattn.ops.linear_attention import allocate
from visionattn.ops.triton._linear_backward import add_mean_gradient, key_backward, query_backward
from visionattn.ops.triton._linear_forward import collect, distribute, merge, prepare

__all__ = ["Attention", "backward", "forward", "rotary_kernels"]

CHUNK = 64  # tokens that a part has at least, and a multiple of
MOST_PARTS = 512
BLOCK = 512  # numbers that a program of `merge` adds up
GROUP = 4  # splits that it adds at a time
# Tokens of a tile, warps, and programs per processor, by kernel and by width of the channels up to 32, 64 and 128. As
# measured on an H200; where keys are weighted, other ones are fastest.
TUNING = {
    "prepare": ((64, 4, 8), (64, 4, 8), (64, 8, 6)),
    "collect": ((64, 4, 4), (64, 4, 3), (32, 4, 4)),
    "distribute": ((64, 4, 8), (64, 4, 6), (64, 4, 4)),
    "query_backward": ((32, 4, 8), (32, 4, 4), (32, 8, 4)),
    "key_backward": ((64, 4, 8), (64, 4, 4), (64, 8, 4)),
    "add_mean_gradient": ((64, 4, 0), (64, 4, 0), (64, 8, 0)),
}
TUNING_WEIGHTED = {
    "collect": ((64, 4, 4), (32, 4, 4), (64, 8, 2)),
    "key_backward": ((64, 8, 4), (64, 4, 4), (32, 4, 4)),
}
# Of sines and cosines: as exact as the features that they are multiplied with.
TABLE = {torch.float32: torch.float32, torch.float16: torch.float16, torch.bfloat16: torch.float16}
WITH_SUMS = ("prepare", "collect", "query_backward", "key_backward")


@dataclass(frozen=True)
class Attention:
    """One attention's switches; see `_linear_forward`.

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
    """How tokens are shared out: `count` parts of `chunk` tokens; `padded` is the next power of two of `count`."""

    count: int
    chunk: int
    padded: int


@dataclass(frozen=True)
class Plan:
    """What all launches for problems of the same shapes, layouts and alignment share.

    Attributes:
        rows: Batch entries times heads.
        device: Index of the GPU.
        splits: Parts of the tokens, per kernel.
        scales: Of sums of keys, and of the vector after them: means where the normalisation is by magnitude.
        constants: Compile-time values of all kernels, by name.
        tuning: Tile and launch options, per kernel.
        compiled: Kernels that have been launched, with the compile-time values in their order.
    """

    rows: int
    device: Optional[int]
    splits: Dict[str, Split]
    scales: Tuple[float, float]
    constants: Dict[str, Any]
    tuning: Dict[str, Dict[str, int]]
    compiled: Dict[str, Tuple[Any, Tuple[Any, ...]]] = field(default_factory=dict)

    def launch(self, name: str, kernel: Any, parts: int, *args: Any, **constants: Any) -> None:
        """Launches `kernel` for all rows and `parts`; only the first time through Triton's slow dispatch.

        Args:
            name: Of this launch within the plan.
            kernel: One of the kernels.
            parts: Programs per row.
            *args: Its arguments that are no compile-time values; tensors among them are those of the plan, or new.
            **constants: Compile-time values beside the plan's.
        """
        if name in self.compiled:
            compiled, values = self.compiled[name]
            stream = torch._C._cuda_getCurrentRawStream(self.device)
            # As `compiled[grid](...)` does, without hooks that profilers of Triton may have set.
            compiled.run(
                self.rows, parts, 1, stream, compiled.function, compiled.packed_metadata, None, None, None,
                *args, *values,
            )  # fmt: skip
            return
        tuning = self.tuning.get(kernel.__name__, {})
        available = {**self.constants, **tuning, **constants}
        names = kernel.arg_names[len(args) :]
        values = {key: available[key] for key in names}
        options = {key: value for key, value in tuning.items() if key.startswith("num_")}
        compiled = kernel[(self.rows, parts, 1)](*args, **values, **options)
        if compiled is not None:  # the interpreter compiles nothing
            self.compiled[name] = compiled, tuple(values.values())


def _share(tokens: int, rows: int, programs: int) -> Split:
    """Parts such that all `rows` together have about `programs`."""
    pieces = triton.cdiv(tokens, CHUNK)
    chunk = triton.cdiv(pieces, max(1, min(pieces, programs // rows, MOST_PARTS)))
    count = triton.cdiv(pieces, chunk)
    return Split(count, chunk * CHUNK, triton.next_power_of_2(count))


def _plan(attention: Attention, angle: Optional[Tensor], size: Tuple[int, int], *tensors: Tensor) -> Plan:
    """The plan for query, key, value and what else comes from outside."""
    layouts = tuple((x.stride(), x.data_ptr() % 16 == 0) for x in tensors)
    query, key, value = tensors[:3]
    angle_dtype = None if angle is None else (angle.dtype, angle.data_ptr() % 16 == 0)
    return _planned(
        attention, angle_dtype, size, query.device, query.dtype, query.shape, key.shape[2], value.shape[3], layouts
    )


@functools.lru_cache(maxsize=1024)
def _planned(
    attention: Attention,
    angle_dtype: Optional[tuple],
    size: Tuple[int, int],
    device: torch.device,
    dtype: torch.dtype,
    shape: torch.Size,
    keys: int,
    value_dim: int,
    layouts: tuple,
) -> Plan:
    batch, heads, tokens, dim = shape
    rows, rotary = batch * heads, angle_dtype is not None
    # Tensor cores take at least 16 channels; a rotation halves them on the way.
    block_k = max(triton.next_power_of_2(dim), 32 if rotary else 16)
    block_v = max(triton.next_power_of_2(value_dim), 16)
    width, span = max(block_k, block_v), max(dim, value_dim, 2)
    precision = "bf16" if dtype == torch.bfloat16 else "bf16x3"
    # Operands of three tf32 products do not fit for wider heads. (Triton's interpreter knows no bfloat16.)
    if dtype == torch.float32 and (width <= 64 or device.type == "cpu"):
        precision = "tf32x3"

    processors = torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 2
    column = 0 if width <= 32 else 1 if width <= 64 else 2
    splits, tuning = {}, {}
    for kernel, default in TUNING.items():
        table = TUNING_WEIGHTED.get(kernel, default) if attention.weighted else default
        tile, warps, programs = table[column]
        tuning[kernel] = dict(BN=tile, num_warps=warps, num_stages=1)
        if kernel in WITH_SUMS:
            # Rows of a tile before a thread, with 8 channels of each row, gets its next one.
            tuning[kernel]["ROWS"] = max(1, min(tile, 256 * warps // width))
        splits[kernel] = _share(keys if kernel in ("collect", "key_backward") else tokens, rows, programs * processors)
    constants = dict(
        FEATURE=attention.feature,
        ROTARY=rotary,
        WEIGHTED=attention.weighted,
        NORM=attention.norm,
        PRECISION=precision,
        DK=dim,
        DV=value_dim,
        BK=block_k,
        BV=block_v,
        SPAN=span,
        LENGTH=dim * value_dim + attention.vectors * span,
        GRAD_LENGTH=dim * value_dim + attention.grad_vectors * span,
    )
    scales = (dim**-0.5 / keys, 1.0 / keys) if attention.norm == "magnitude" else (1.0, 1.0)
    return Plan(rows, device.index, splits, scales, constants, tuning)


def _prepare(
    plan: Plan, query: Tensor, angle: Optional[Tensor], positions: int, weighted: bool
) -> Tuple[Optional[Tensor], Optional[Tensor]]:
    """The table of phases and the sums of the queries' features, each where it is needed."""
    table = sums = None
    parts, chunk, _ = plan.splits["prepare"]
    if angle is not None:
        table = angle.new_empty((2, positions, angle.shape[0]), dtype=TABLE[query.dtype])
    if weighted:
        sums = query.new_empty((plan.rows * parts, query.shape[3]), dtype=torch.float32)
    if angle is not None or weighted:
        plan.launch(
            "prepare", prepare, parts, query, *query.stride(), angle, table, sums, query.shape[1],
            query.shape[2], chunk, parts, positions, WEIGHTED=weighted,
        )  # fmt: skip
    return table, sums


def _merge(plan: Plan, partial: Tensor, extremes: Optional[Tensor], row: Tensor, split: Split) -> None:
    """Sums over all parts, and what the readers want of them."""
    constants, length = plan.constants, row.shape[1]
    matrix = constants["DK"] * constants["DV"]
    merged = length if extremes is None else matrix + constants["SPAN"]
    plan.launch(
        "merge" if extremes is None else "merge weighted", merge, -(-merged // BLOCK), partial, extremes, row,
        split.count, *plan.scales, WEIGHTED=extremes is not None, MATRIX=matrix, MERGED=merged, LENGTH=length,
        BLOCK=BLOCK, GROUP=GROUP, SPLITS=split.padded,
    )  # fmt: skip


def forward(
    attention: Attention,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    angle: Optional[Tensor] = None,
    height: int = 1,
    width: int = 1,
    eps: float = 0.0,
    factors: Optional[Tensor] = None,
) -> Tuple[Tensor, Tensor]:
    """The output `[batch, heads, tokens, value_dim]`, and the row `[batch * heads, length]` that backward needs."""
    out, row = allocate(query, value, attention.vectors)
    plan = _plan(attention, angle, (height, width), query, key, value)
    heads, tokens, dim = query.shape[1:]
    split, (query_parts, _, query_padded) = plan.splits["collect"], plan.splits["prepare"]
    positions, weighted = max(height, width), attention.weighted
    table, sums = _prepare(plan, query, angle, positions, weighted)
    partial = row.new_empty((plan.rows * split.count, row.shape[1]))
    extremes = row.new_empty((plan.rows * split.count, 2)) if weighted else None
    plan.launch(
        "collect", collect, split.count, key, *key.stride(), value, *value.stride(), table, sums, partial, extremes,
        row, heads, key.shape[2], split.chunk, query_parts, width, positions, dim**-0.5 / tokens, SPLITS=query_padded,
    )  # fmt: skip
    _merge(plan, partial, extremes, row, split)
    parts, chunk, _ = plan.splits["distribute"]
    plan.launch(
        "distribute", distribute, parts, query, *query.stride(), out, *out.stride(), table, row, factors,
        heads, tokens, chunk, width, positions, eps,
    )  # fmt: skip
    return out, row


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
    plan = _plan(attention, angle, (height, width), query, key, value, grad)
    heads, tokens, dim = query.shape[1:]
    positions, weighted = max(height, width), attention.weighted
    grad_query, grad_key, grad_value = (torch.empty_like(x) for x in (query, key, value))
    length = plan.constants["GRAD_LENGTH"]
    split = plan.splits["query_backward"]
    partial = row.new_empty((plan.rows * split.count, length))
    grad_row = row.new_empty((plan.rows, length))
    table, _ = _prepare(plan, query, angle, positions, weighted=False)
    plan.launch(
        "query_backward", query_backward, split.count, query, *query.stride(), grad, *grad.stride(), grad_query,
        *grad_query.stride(), table, row, factors, partial, heads, tokens, split.chunk, width,
        positions, eps,
    )  # fmt: skip
    _merge(plan, partial, None, grad_row, split)
    parts, chunk, padded = plan.splits["key_backward"]
    sums = row.new_empty((plan.rows * parts, dim)) if weighted else None
    plan.launch(
        "key_backward", key_backward, parts, key, *key.stride(), value, *value.stride(), grad_key,
        *grad_key.stride(), grad_value, *grad_value.stride(), table, row, grad_row, sums, heads, key.shape[2], chunk,
        parts, width, positions,
    )  # fmt: skip
    if weighted:
        tile = plan.tuning["add_mean_gradient"]["BN"]
        plan.launch(
            "add_mean_gradient", add_mean_gradient, -(-tokens // tile), query, *query.stride(), grad_query,
            *grad_query.stride(), sums, heads, tokens, parts, dim**-0.5 / tokens, SPLITS=padded,
        )  # fmt: skip
    return grad_query, grad_key, grad_value, grad_row


def rotary_kernels(attention: Attention) -> Tuple[Callable[..., Any], Callable[..., Any]]:
    """Forward and backward, as a `TritonOperator` calls them, of an attention with a rotation by constant angles."""

    def rotary_forward(query, key, value, angle, height, width, eps):
        return forward(attention, query, key, value, angle, height, width, eps)

    def rotary_backward(grad, query, key, value, angle, height, width, eps, row):
        return *backward(attention, grad, row, query, key, value, angle, height, width, eps)[:3], None

    return rotary_forward, rotary_backward
