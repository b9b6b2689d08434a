"""The two halves of neighborhood attention on their own: logits of each window (qk), weighted sums of it (av).

Heads-first, as in the code that the papers' models were released with. Prefer the fused `na1d`, `na2d`, `na3d`: these
store `prod(kernel_size)` weights per query.
"""

from __future__ import annotations

import math
from typing import Callable, Optional

import torch
from torch import Tensor

from visionattn.ops import _arguments as check
from visionattn.ops import _operators
from visionattn.ops._arguments import BoolOrTuple, IntOrTuple, Neighborhood

__all__ = ["na1d_av", "na1d_qk", "na2d_av", "na2d_qk", "na3d_av", "na3d_qk"]


def _qk(
    rank: int,
    query: Tensor,
    key: Tensor,
    kernel_size: IntOrTuple,
    dilation: Optional[IntOrTuple],
    additional_keys: Optional[Tensor],
    is_causal: Optional[BoolOrTuple],
    rpb: Optional[Tensor],
    clip_window: bool,
    backend: str,
) -> Tensor:
    check.check_backend(backend)
    check.check_tensor("query", query, rank + 3)
    device_type = query.device.type
    if _operators.is_autocast_enabled(device_type):
        query, key, additional_keys = _operators.autocast(device_type, (query, key, additional_keys))
    check.check_tensor("key", key, rank + 3, like=query)
    check.check_shape("key", key, tuple(query.shape), "that of query")
    area = _area(query, kernel_size, dilation, is_causal, clip_window)
    if rpb is not None:
        check.check_rpb(rpb, query, query.shape[1], area.kernel_size, area.is_causal)
        rpb = rpb.to(_operators.accumulator(query.dtype))
    logits = _operators.dispatch(
        "neighborhood_qk", backend, query, key, rpb, area.kernel_size, area.dilation, area.is_causal
    )
    if additional_keys is None:
        return logits
    batch, heads, dim = query.shape[0], query.shape[1], query.shape[-1]
    check.check_tensor("additional_keys", additional_keys, 4, like=query)
    check.check_shape("additional_keys", additional_keys, [batch, heads, None, dim], "[batch, heads, tokens, head_dim]")
    extra = query.flatten(2, -2) @ additional_keys.transpose(-2, -1)
    return torch.cat([logits, extra.unflatten(2, query.shape[2:-1]).to(logits.dtype)], dim=-1)


def _av(
    rank: int,
    attn: Tensor,
    value: Tensor,
    kernel_size: IntOrTuple,
    dilation: Optional[IntOrTuple],
    additional_values: Optional[Tensor],
    is_causal: Optional[BoolOrTuple],
    clip_window: bool,
    backend: str,
) -> Tensor:
    check.check_backend(backend)
    check.check_tensor("value", value, rank + 3)
    device_type = value.device.type
    if _operators.is_autocast_enabled(device_type):
        attn, value, additional_values = _operators.autocast(device_type, (attn, value, additional_values))
    check.check_tensor("attn", attn, rank + 3, like=value)
    area = _area(value, kernel_size, dilation, is_causal, clip_window)
    slots = math.prod(area.kernel_size)
    tokens = 0
    if additional_values is not None:
        check.check_tensor("additional_values", additional_values, 4, like=value)
        expected = [*value.shape[:2], None, value.shape[-1]]
        check.check_shape("additional_values", additional_values, expected, "[batch, heads, tokens, head_dim]")
        tokens = additional_values.shape[2]
    check.check_shape(
        "attn", attn, [*value.shape[:-1], slots + tokens], "[batch, heads, *spatial, window + additional]"
    )
    out = _operators.dispatch(
        "neighborhood_av", backend, attn[..., :slots], value, area.kernel_size, area.dilation, area.is_causal
    )  # fmt: skip
    if additional_values is not None:
        extra = attn[..., slots:].flatten(2, -2) @ additional_values
        out = out + extra.unflatten(2, value.shape[2:-1]).to(out.dtype)
    return out


def _area(
    x: Tensor,
    kernel_size: IntOrTuple,
    dilation: Optional[IntOrTuple],
    is_causal: Optional[BoolOrTuple],
    clip_window: bool,
) -> Neighborhood:
    if any(size < 1 for size in x.shape[1:]):
        raise ValueError(f"query and value need at least one head, position and channel, got shape {tuple(x.shape)}")
    return check.neighborhood(x.shape[2:-1], kernel_size, 1, dilation, is_causal, clip_window)


def _public_qk(rank: int) -> Callable[..., Tensor]:
    def qk(
        query: Tensor,
        key: Tensor,
        kernel_size: IntOrTuple,
        dilation: Optional[IntOrTuple] = 1,
        additional_keys: Optional[Tensor] = None,
        is_causal: Optional[BoolOrTuple] = False,
        rpb: Optional[Tensor] = None,
        *,
        clip_window: bool = False,
        backend: str = "auto",
    ) -> Tensor:
        return _qk(rank, query, key, kernel_size, dilation, additional_keys, is_causal, rpb, clip_window, backend)

    qk.__name__ = qk.__qualname__ = f"na{rank}d_qk"
    qk.__doc__ = f"""Logits of every query with the keys of its {rank}-D window: `q k^T + rpb`, unscaled.

    Args:
        query: `[batch, heads, *spatial, head_dim]` with {rank} spatial axes, already scaled; any float dtype.
        key: Same shape.
        kernel_size: Window size per axis, at least 2.
        dilation: Gap between neighboring keys per axis; `kernel_size * dilation` must not exceed the map.
        additional_keys: `[batch, heads, tokens, head_dim]`; their logits follow those of the window.
        is_causal: Per axis, whether a query sees no key after itself.
        rpb: Relative positional bias `[heads, 2 * kernel_size - 1, ...]`; not with causal axes.
        clip_window: Cut a window that is larger than the map to the map instead of raising.
        backend: `"auto"` or `"reference"`, see `na2d`.

    Returns:
        `[batch, heads, *spatial, prod(kernel_size) + tokens]`, window slots row-major; slots outside a
        causal or clipped window are -inf, at the end of their axis' window.

    Raises:
        TypeError, ValueError, NotImplementedError: as `na2d`.
    """
    return qk


def _public_av(rank: int) -> Callable[..., Tensor]:
    def av(
        attn: Tensor,
        value: Tensor,
        kernel_size: IntOrTuple,
        dilation: Optional[IntOrTuple] = 1,
        additional_values: Optional[Tensor] = None,
        is_causal: Optional[BoolOrTuple] = False,
        *,
        clip_window: bool = False,
        backend: str = "auto",
    ) -> Tensor:
        return _av(rank, attn, value, kernel_size, dilation, additional_values, is_causal, clip_window, backend)

    av.__name__ = av.__qualname__ = f"na{rank}d_av"
    av.__doc__ = f"""Sums of the values of every query's {rank}-D window, weighted by `attn`.

    Args:
        attn: `[batch, heads, *spatial, prod(kernel_size) + tokens]` as from `na{rank}d_qk` and a softmax; slots outside
            a causal or clipped window count as zero, whatever they hold.
        value: `[batch, heads, *spatial, head_dim]`, dtype of `attn`.
        kernel_size: Window size per axis, at least 2.
        dilation: Gap between neighboring keys per axis.
        additional_values: `[batch, heads, tokens, head_dim]`, weighted by the last `tokens` entries of `attn`.
        is_causal: Per axis, whether a query sees no key after itself.
        clip_window: Cut a window that is larger than the map to the map instead of raising.
        backend: `"auto"` or `"reference"`, see `na2d`.

    Returns:
        `[batch, heads, *spatial, head_dim]`.

    Raises:
        TypeError, ValueError: as `na2d`.
    """
    return av


na1d_qk, na2d_qk, na3d_qk = (_public_qk(rank) for rank in (1, 2, 3))
na1d_av, na2d_av, na3d_av = (_public_av(rank) for rank in (1, 2, 3))
