"""Neighborhood attention: softmax attention of every query over the `kernel_size` nearest keys per axis.

Windows are shifted, never cut, at borders; dilation splits each axis into interleaved groups; stride lets groups of
queries share a window; causal axes look back only. Sources: NAT (Hassani et al., CVPR 2023), DiNAT (Hassani and Shi,
2022), Generalized Neighborhood Attention (Hassani et al., 2025).
"""

from __future__ import annotations

from typing import Optional, Union

from torch import Tensor

from visionattn.ops import _arguments as check
from visionattn.ops import _operators
from visionattn.ops._arguments import BoolOrTuple, IntOrTuple
from visionattn.ops._remember import remember

__all__ = ["na1d", "na2d", "na3d", "na_qkv"]

Result = Union[Tensor, tuple[Tensor, Tensor]]


def na1d(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    kernel_size: IntOrTuple,
    stride: Optional[IntOrTuple] = 1,
    dilation: Optional[IntOrTuple] = 1,
    is_causal: Optional[BoolOrTuple] = False,
    scale: Optional[float] = None,
    rpb: Optional[Tensor] = None,
    additional_keys: Optional[Tensor] = None,
    additional_values: Optional[Tensor] = None,
    return_lse: bool = False,
    *,
    clip_window: bool = False,
    backend: str = "auto",
) -> Result:
    """1-D neighborhood attention; see `na2d`, with tensors `[batch, length, heads, head_dim]`."""
    return _neighborhood_attention(
        1, query, key, value, kernel_size, stride, dilation, is_causal, scale, rpb, additional_keys, additional_values,
        return_lse, clip_window, backend,
    )  # fmt: skip


def na2d(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    kernel_size: IntOrTuple,
    stride: Optional[IntOrTuple] = 1,
    dilation: Optional[IntOrTuple] = 1,
    is_causal: Optional[BoolOrTuple] = False,
    scale: Optional[float] = None,
    rpb: Optional[Tensor] = None,
    additional_keys: Optional[Tensor] = None,
    additional_values: Optional[Tensor] = None,
    return_lse: bool = False,
    *,
    clip_window: bool = False,
    backend: str = "auto",
) -> Result:
    """2-D neighborhood attention: `softmax(scale * q k^T + rpb) v` over each query's window.

    Args:
        query: `[batch, height, width, heads, head_dim]`, float16, bfloat16, float32 or float64. Any strides: a slice of
            a packed qkv projection is read in place.
        key: `[batch, height, width, heads_kv, head_dim]`; `heads` must be a multiple of `heads_kv` (grouped-query).
        value: `[batch, height, width, heads_kv, head_dim_value]`.
        kernel_size: Window size per axis, at least 2, odd or even.
        stride: Queries per axis that share a window, from 1 (every query its own) to `kernel_size` (blocks).
        dilation: Gap between neighboring keys per axis; `kernel_size * dilation` must not exceed the map.
        is_causal: Per axis, whether a query sees no key after itself.
        scale: Factor on the logits; None or 0 means `head_dim ** -0.5`.
        rpb: Relative positional bias `[heads, 2 * kernel_size - 1, 2 * kernel_size - 1]`, indexed by key minus query in
            dilated steps plus `kernel_size - 1`. Any floating dtype; not with causal axes.
        additional_keys: `[batch, tokens, heads_kv, head_dim]`, attended by every query besides its window.
        additional_values: `[batch, tokens, heads_kv, head_dim_value]`.
        return_lse: Also return the log-sum-exp of each query's logits.
        clip_window: Cut a window that is larger than the map to the map instead of raising.
        backend: `"auto"`: the compiled kernel where there is one for the device and dtype, else plain PyTorch;
            `"reference"`: plain PyTorch, differentiable any number of times.

    Returns:
        Output `[batch, height, width, heads, head_dim_value]` in the dtype of `query`; with `return_lse` also the
        natural-log lse `[batch, height, width, heads]`, float32 (float64 for float64), differentiable.

    Raises:
        TypeError: an argument of the wrong type or dtype.
        ValueError: shapes, devices or values that do not fit; the message names the argument.
        NotImplementedError: `rpb` together with a causal axis.
    """
    return _neighborhood_attention(
        2, query, key, value, kernel_size, stride, dilation, is_causal, scale, rpb, additional_keys, additional_values,
        return_lse, clip_window, backend,
    )  # fmt: skip


def na3d(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    kernel_size: IntOrTuple,
    stride: Optional[IntOrTuple] = 1,
    dilation: Optional[IntOrTuple] = 1,
    is_causal: Optional[BoolOrTuple] = False,
    scale: Optional[float] = None,
    rpb: Optional[Tensor] = None,
    additional_keys: Optional[Tensor] = None,
    additional_values: Optional[Tensor] = None,
    return_lse: bool = False,
    *,
    clip_window: bool = False,
    backend: str = "auto",
) -> Result:
    """3-D neighborhood attention; see `na2d`, with tensors `[batch, depth, height, width, heads, head_dim]`."""
    return _neighborhood_attention(
        3, query, key, value, kernel_size, stride, dilation, is_causal, scale, rpb, additional_keys, additional_values,
        return_lse, clip_window, backend,
    )  # fmt: skip


def _neighborhood_attention(
    rank: int,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    kernel_size: IntOrTuple,
    stride: Optional[IntOrTuple],
    dilation: Optional[IntOrTuple],
    is_causal: Optional[BoolOrTuple],
    scale: Optional[float],
    rpb: Optional[Tensor],
    additional_keys: Optional[Tensor],
    additional_values: Optional[Tensor],
    return_lse: bool,
    clip_window: bool,
    backend: str,
) -> Result:
    check.check_backend(backend)
    check.check_tensor("query", query, rank + 3)
    if _operators.is_autocast_enabled(query.device.type):
        query, key, value, additional_keys, additional_values = _operators.autocast(
            query.device.type, (query, key, value, additional_keys, additional_values)
        )
    tensors = (query, key, value, rpb, additional_keys, additional_values)
    options = (rank, kernel_size, stride, dilation, is_causal, scale, clip_window)
    area, scale = remember(_check, tensors, options)
    out, lse = _operators.dispatch(
        "neighborhood_attention", backend, query, key, value, _as_accumulator(rpb, query), additional_keys,
        additional_values, *area, scale,
    )  # fmt: skip
    return (out, lse) if return_lse else out


def _as_accumulator(rpb: Optional[Tensor], x: Tensor) -> Optional[Tensor]:
    """The bias table in the dtype that kernels sum in."""
    dtype = _operators.accumulator(x.dtype)
    return rpb if rpb is None or rpb.dtype == dtype else rpb.to(dtype)


def _check(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    rpb: Optional[Tensor],
    extra_k: Optional[Tensor],
    extra_v: Optional[Tensor],
    rank: int,
    kernel_size: IntOrTuple,
    stride: Optional[IntOrTuple],
    dilation: Optional[IntOrTuple],
    is_causal: Optional[BoolOrTuple],
    scale: Optional[float],
    clip_window: bool,
) -> tuple[check.Neighborhood, float]:
    """The checked neighborhood and the scale of a call."""
    check.check_tensor("query", query, rank + 3)
    check.check_tensor("key", key, rank + 3, like=query)
    check.check_tensor("value", value, rank + 3, like=query)
    batch, *spatial, heads, dim = query.shape
    heads_kv = key.shape[-2]
    if any(size < 1 for size in query.shape[1:]):  # no min(): it would order symbolic sizes
        raise ValueError(f"query must have at least one position, head and channel, got shape {tuple(query.shape)}")
    axes = "[batch, *spatial, heads_kv, head_dim]"
    check.check_shape("key", key, [batch, *spatial, None, dim], axes)
    check.check_shape("value", value, [batch, *spatial, heads_kv, None], axes)
    if heads_kv < 1 or heads % heads_kv:
        raise ValueError(f"key must have a number of heads that divides the {heads} of query, got {heads_kv}")
    if value.shape[-1] < 1:
        raise ValueError(f"value must have at least one channel, got shape {tuple(value.shape)}")
    if (extra_k is None) != (extra_v is None):
        raise ValueError("additional_keys and additional_values go together: one is None and the other is not")
    if extra_k is not None:
        check.check_tensor("additional_keys", extra_k, 4, like=query)
        check.check_tensor("additional_values", extra_v, 4, like=query)
        tokens = extra_k.shape[1]
        axes = "[batch, tokens, heads_kv, head_dim]"
        check.check_shape("additional_keys", extra_k, [batch, None, heads_kv, dim], axes)
        check.check_shape("additional_values", extra_v, [batch, tokens, heads_kv, value.shape[-1]], axes)
    area = check.neighborhood(spatial, kernel_size, stride, dilation, is_causal, clip_window)
    if rpb is not None:
        check.check_rpb(rpb, query, heads, area.kernel_size, area.is_causal)
    return area, float(scale or dim**-0.5)


def na_qkv(
    qkv: Tensor,
    kernel_size: IntOrTuple,
    stride: Optional[IntOrTuple] = 1,
    dilation: Optional[IntOrTuple] = 1,
    is_causal: Optional[BoolOrTuple] = False,
    scale: Optional[float] = None,
    rpb: Optional[Tensor] = None,
    return_lse: bool = False,
    *,
    clip_window: bool = False,
    backend: str = "auto",
) -> Result:
    """Neighborhood attention within a packed projection; see `na2d`.

    The projection is read in place and its gradient is written packed: no stacking or copying around attention.

    Args:
        qkv: `[batch, *spatial, 3, heads, head_dim]` with one to three spatial axes: query, key and value.
        kernel_size: As in `na2d`, and so are the other arguments.

    Returns:
        `[batch, *spatial, heads, head_dim]`; with `return_lse` also the lse `[batch, *spatial, heads]`.

    Raises:
        TypeError, ValueError, NotImplementedError: as `na2d`.
    """
    check.check_backend(backend)
    check.check_tensor("qkv", qkv)
    if _operators.is_autocast_enabled(qkv.device.type):
        (qkv,) = _operators.autocast(qkv.device.type, (qkv,))
    options = (kernel_size, stride, dilation, is_causal, scale, clip_window)
    area, scale = remember(_check_packed, (qkv, rpb), options)
    out, lse = _operators.dispatch("neighborhood_attention_qkv", backend, qkv, _as_accumulator(rpb, qkv), *area, scale)
    return (out, lse) if return_lse else out


def _check_packed(
    qkv: Tensor,
    rpb: Optional[Tensor],
    kernel_size: IntOrTuple,
    stride: Optional[IntOrTuple],
    dilation: Optional[IntOrTuple],
    is_causal: Optional[BoolOrTuple],
    scale: Optional[float],
    clip_window: bool,
) -> tuple[check.Neighborhood, float]:
    if not 5 <= qkv.dim() <= 7 or qkv.shape[-3] != 3:
        shape = "[batch, *spatial, 3, heads, head_dim] with 1 to 3 spatial axes"
        raise ValueError(f"qkv must have shape {shape}, got {list(qkv.shape)}")
    if any(size < 1 for size in qkv.shape[1:]):
        raise ValueError(f"qkv must have at least one position, head and channel, got shape {tuple(qkv.shape)}")
    area = check.neighborhood(qkv.shape[1:-3], kernel_size, stride, dilation, is_causal, clip_window)
    if rpb is not None:
        check.check_rpb(rpb, qkv, qkv.shape[-2], area.kernel_size, area.is_causal)
    return area, float(scale or qkv.shape[-1] ** -0.5)
