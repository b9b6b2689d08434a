"""`na1d`, `na2d`, `na3d` with the argument order of NATTEN 0.17 (`legacy`) and of 0.20 and later (`current`)."""

from __future__ import annotations

from typing import Any, Callable, Optional, Union

import torch
from torch import Tensor

from visionattn import ops
from visionattn.compat.natten import _tuning

Ints = Union[int, tuple[int, ...], None]
Bools = Union[bool, tuple[bool, ...], None]
Result = Union[Tensor, tuple[Tensor, Tensor]]

_FLOAT8 = (torch.float8_e4m3fn, torch.float8_e5m2)


def refuse_unsupported_tensors(query: object) -> None:
    """Raises for the kinds of tensors that some NATTEN backend takes and visionattn does not.

    Raises:
        NotImplementedError: float8 or nested tensors.
    """
    if isinstance(query, Tensor) and query.dtype in _FLOAT8:
        raise NotImplementedError(
            f"float8 attention ({query.dtype}) is not offered by visionattn; use float16 or bfloat16"
        )
    if isinstance(query, Tensor) and query.is_nested:
        raise NotImplementedError("attention over nested tensors is not offered by visionattn; pad or loop instead")


def _call(rank: int, query: Tensor, key: Tensor, value: Tensor, kernel_size: Ints, **arguments: Any) -> Result:
    refuse_unsupported_tensors(query)
    return getattr(ops, f"na{rank}d")(query, key, value, kernel_size, **arguments)


_DOC = """{rank}-D neighborhood attention with the arguments of NATTEN {generation}.

    The arguments after `kernel_size` come in the order of NATTEN {generation}: {order}. Given by keyword, the
    arguments of either generation work. Semantics, shapes and errors are those of `visionattn.ops.na{rank}d`.

    Args:
        query: `[batch, *spatial, heads, head_dim]` with {rank} spatial axes.
        key: `[batch, *spatial, heads_kv, head_dim]`.
        value: `[batch, *spatial, heads_kv, head_dim_value]`.
        kernel_size: Window size per axis.
        stride: Queries per axis that share a window.
        dilation: Gap between neighboring keys per axis.
        is_causal: Per axis, whether a query sees no key after itself.
        scale: Factor on the logits; None or 0 means `head_dim ** -0.5`.
        rpb: Relative positional bias `[heads, 2 * kernel_size - 1, ...]`; keeps its gradient.
        additional_keys: `[batch, tokens, heads_kv, head_dim]`, attended by every query.
        additional_values: `[batch, tokens, heads_kv, head_dim_value]`.
        return_lse: Also return the log-sum-exp `[batch, *spatial, heads]`.

    The other arguments choose NATTEN's kernels and tiles: they are checked and have no effect.

    Returns:
        Output `[batch, *spatial, heads, head_dim_value]`, and the lse with `return_lse`.

    Raises:
        TypeError, ValueError: a wrong argument; the message names it.
        NotImplementedError: float8 or nested tensors, `rpb` with a causal axis.
    """


def _name(function: Callable, module: str, rank: int, generation: str, order: str) -> Callable[..., Result]:
    function.__module__, function.__name__, function.__qualname__ = module, f"na{rank}d", f"na{rank}d"
    function.__doc__ = _DOC.format(rank=rank, generation=generation, order=order)
    return function


def current(rank: int, module: str) -> Callable[..., Result]:
    """`na{rank}d` of NATTEN 0.20 and later, defined for the Python module `module`."""

    def na(
        query: Tensor,
        key: Tensor,
        value: Tensor,
        kernel_size: Ints,
        stride: Ints = 1,
        dilation: Ints = 1,
        is_causal: Bools = False,
        scale: Optional[float] = None,
        additional_keys: Optional[Tensor] = None,
        additional_values: Optional[Tensor] = None,
        attention_kwargs: Optional[dict[str, Any]] = None,
        backend: Optional[str] = None,
        q_tile_shape: Optional[tuple[int, ...]] = None,
        kv_tile_shape: Optional[tuple[int, ...]] = None,
        backward_q_tile_shape: Optional[tuple[int, ...]] = None,
        backward_kv_tile_shape: Optional[tuple[int, ...]] = None,
        backward_kv_splits: Ints = None,
        backward_use_pt_reduction: bool = False,
        run_persistent_kernel: bool = True,
        kernel_schedule: Optional[str] = None,
        torch_compile: bool = False,
        return_lse: bool = False,
        *,
        rpb: Optional[Tensor] = None,
    ) -> Result:
        _tuning.check_neighborhood(
            rank,
            attention_kwargs,
            backend=backend,
            q_tile_shape=q_tile_shape,
            kv_tile_shape=kv_tile_shape,
            backward_q_tile_shape=backward_q_tile_shape,
            backward_kv_tile_shape=backward_kv_tile_shape,
            backward_kv_splits=backward_kv_splits,
            backward_use_pt_reduction=backward_use_pt_reduction,
            run_persistent_kernel=run_persistent_kernel,
            kernel_schedule=kernel_schedule,
            torch_compile=torch_compile,
        )
        return _call(
            rank, query, key, value, kernel_size, stride=stride, dilation=dilation, is_causal=is_causal, scale=scale,
            rpb=rpb, additional_keys=additional_keys, additional_values=additional_values, return_lse=return_lse,
        )  # fmt: skip

    return _name(na, module, rank, "0.21", "stride, dilation, is_causal, scale, ...")


def legacy(rank: int, module: str) -> Callable[..., Result]:
    """`na{rank}d` of NATTEN 0.17, defined for the Python module `module`."""

    def na(
        query: Tensor,
        key: Tensor,
        value: Tensor,
        kernel_size: Ints,
        dilation: Ints = 1,
        is_causal: Bools = False,
        rpb: Optional[Tensor] = None,
        scale: Optional[float] = None,
        additional_keys: Optional[Tensor] = None,
        additional_values: Optional[Tensor] = None,
        *,
        stride: Ints = 1,
        return_lse: bool = False,
        **tuning: Any,
    ) -> Result:
        _tuning.check_neighborhood(rank, **tuning)
        return _call(
            rank, query, key, value, kernel_size, stride=stride, dilation=dilation, is_causal=is_causal, scale=scale,
            rpb=rpb, additional_keys=additional_keys, additional_values=additional_values, return_lse=return_lse,
        )  # fmt: skip

    return _name(na, module, rank, "0.17", "dilation, is_causal, rpb, scale, ...")
