"""Checks of operator arguments: every message names the argument, what was given and what is allowed."""

from __future__ import annotations

import numbers
from collections.abc import Sequence
from typing import NamedTuple, Optional, Union

import torch
from torch import Tensor

IntOrTuple = Union[int, Sequence[int]]
BoolOrTuple = Union[bool, Sequence[bool]]

FLOAT_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


class Neighborhood(NamedTuple):
    """A checked neighborhood: one entry per spatial axis."""

    kernel_size: list[int]
    stride: list[int]
    dilation: list[int]
    is_causal: list[int]


def _entry(value: object, kind: type) -> object:
    """`value` as a plain `kind`, else None. A bool is no window size and 1 is no flag; numpy scalars pass."""
    if isinstance(value, torch.SymInt):
        return value if kind is int else None
    is_bool = isinstance(value, bool) or type(value).__name__ in ("bool", "bool_")
    if is_bool != (kind is bool):
        return None
    return bool(value) if is_bool else (int(value) if isinstance(value, numbers.Integral) else None)


def per_axis(name: str, value: object, rank: int, kind: type, default: object = None) -> list:
    """`value` as a list of `rank` entries of type `kind`; a single value is repeated, None means `default`."""
    if value is None and default is not None:
        value = default
    if type(value) is kind:  # the common case, cheaply: these checks run on every call
        return [value] * rank
    if type(value) in (list, tuple) and len(value) == rank and all(type(entry) is kind for entry in value):
        return list(value)
    single = _entry(value, kind)
    if single is not None:
        return [single] * rank
    if isinstance(value, Sequence) and not isinstance(value, str):
        if len(value) != rank:
            raise ValueError(f"{name} must have {rank} entries, one per spatial axis, got {len(value)}: {value!r}")
        entries = [_entry(entry, kind) for entry in value]
        if None not in entries:
            return entries
    raise TypeError(f"{name} must be {kind.__name__} or a tuple of {rank} {kind.__name__}s, got {value!r}")


def neighborhood(
    spatial: Sequence[int],
    kernel_size: IntOrTuple,
    stride: Optional[IntOrTuple],
    dilation: Optional[IntOrTuple],
    is_causal: Optional[BoolOrTuple],
    clip_window: bool = False,
) -> Neighborhood:
    """Checks a neighborhood against the map that it is used on.

    Raises:
        TypeError: an entry is not an int (bool for `is_causal`).
        ValueError: wrong number of entries, or a value out of range for the map.
    """
    rank = len(spatial)
    kernel = per_axis("kernel_size", kernel_size, rank, int)
    step = per_axis("stride", stride, rank, int, 1)
    gap = per_axis("dilation", dilation, rank, int, 1)
    causal = per_axis("is_causal", is_causal, rank, bool, False)
    for axis, (length, k, s, d) in enumerate(zip(spatial, kernel, step, gap)):
        if k < 2:
            raise ValueError(f"kernel_size must be at least 2 on every axis, got {k} on axis {axis}")
        if not 1 <= s <= k:
            raise ValueError(f"stride must be from 1 to kernel_size={k}, got {s} on axis {axis}")
        if d < 1:
            raise ValueError(f"dilation must be at least 1, got {d} on axis {axis}")
        if not clip_window and k * d > length:
            raise ValueError(
                f"kernel_size * dilation must not exceed the map: {k} * {d} > {length} on axis {axis}; use a smaller "
                "window, pad the map, or pass clip_window=True"
            )
    return Neighborhood(kernel, step, gap, [int(c) for c in causal])


def check_tensor(name: str, x: object, rank: Optional[int] = None, like: Optional[Tensor] = None) -> None:
    """Checks that `x` is a dense floating-point tensor of `rank` axes, of dtype and device of `like`.

    Raises:
        TypeError: not a tensor, or of a dtype that is not allowed.
        ValueError: wrong number of axes, or another device.
    """
    if not isinstance(x, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor, got {type(x).__name__}")
    if x.layout != torch.strided or x.is_nested:
        raise TypeError(f"{name} must be a dense tensor, got layout {x.layout}")
    if x.dtype not in FLOAT_DTYPES:
        raise TypeError(f"{name} must be float16, bfloat16, float32 or float64, got {x.dtype}")
    if rank is not None and x.dim() != rank:
        raise ValueError(f"{name} must have {rank} axes, got {x.dim()}: shape {tuple(x.shape)}")
    if like is not None:
        if x.dtype != like.dtype:
            raise TypeError(f"{name} must have the dtype of query, {like.dtype}, got {x.dtype}")
        if x.device != like.device:
            raise ValueError(f"{name} must be on the device of query, {like.device}, got {x.device}")


def check_shape(name: str, x: Tensor, expected: Sequence[Optional[int]], axes: str) -> None:
    """Checks the shape of `x`; a None in `expected` allows any size."""
    shape = tuple(x.shape)
    if len(shape) != len(expected) or any(e is not None and s != e for s, e in zip(shape, expected)):
        wanted = ", ".join("any" if e is None else str(e) for e in expected)
        raise ValueError(f"{name} must have shape {axes} = [{wanted}], got {list(shape)}")


def check_rpb(rpb: object, query: Tensor, heads: int, kernel_size: Sequence[int], is_causal: Sequence[int]) -> None:
    """Checks a relative positional bias table.

    Raises:
        TypeError: not a floating-point tensor.
        ValueError: wrong shape or device.
        NotImplementedError: some axis is causal.
    """
    check_tensor("rpb", rpb)
    if rpb.device != query.device:
        raise ValueError(f"rpb must be on the device of query, {query.device}, got {rpb.device}")
    if any(is_causal):
        raise NotImplementedError("rpb with a causal axis is not defined; pass rpb=None or is_causal=False")
    expected = [heads, *(2 * k - 1 for k in kernel_size)]
    check_shape("rpb", rpb, expected, "[heads, 2 * kernel_size - 1 per axis]")


def check_backend(backend: str) -> None:
    if backend not in ("auto", "reference"):
        raise ValueError(f"backend must be 'auto' or 'reference', got {backend!r}")
