"""The unfused operators of NATTEN 0.14 to 0.17: `natten{1,2,3}d{qkrpb,qk,av}`, heads-first.

Up to 0.14.4 `qkrpb` and `av` took no kernel size, so their last positional argument was the dilation; later both came,
kernel size first. One positional argument is therefore a dilation, two are kernel size and dilation.
"""

from __future__ import annotations

from typing import Any, Callable, Optional

from torch import Tensor

from visionattn import ops


def _window(name: str, window: tuple, kernel_size: Any, dilation: Any, inferred: Callable[[], Any]) -> tuple[Any, Any]:
    """Kernel size and dilation from the positional arguments `window` and the keywords."""
    names = [key for key, value in (("kernel_size", kernel_size), ("dilation", dilation)) if value is None]
    if len(window) == 1 and kernel_size is None and dilation is None:
        names = ["dilation"]
    if len(window) > len(names):
        raise TypeError(f"{name} takes kernel_size and dilation once each, or, as up to NATTEN 0.14.4, dilation alone")
    given = {"kernel_size": kernel_size, "dilation": dilation, **dict(zip(names, window))}
    if given["kernel_size"] is None:
        given["kernel_size"] = inferred()
    return given["kernel_size"], 1 if given["dilation"] is None else given["dilation"]


def _named(function: Callable[..., Tensor], module: str, name: str, doc: str) -> Callable[..., Tensor]:
    function.__module__, function.__name__, function.__qualname__ = module, name, name
    function.__doc__ = doc
    return function


_RULE = """Called as up to NATTEN 0.14.4 with one positional argument after the tensors, that one is the dilation
    and the kernel size comes from the shape of {source}."""


def qkrpb(rank: int, module: str) -> Callable[..., Tensor]:
    name, operator = f"natten{rank}dqkrpb", getattr(ops, f"na{rank}d_qk")

    def function(
        query: Tensor, key: Tensor, rpb: Optional[Tensor], *window: Any, kernel_size: Any = None, dilation: Any = None
    ) -> Tensor:
        def inferred() -> tuple[int, ...]:
            if not isinstance(rpb, Tensor) or rpb.dim() != rank + 1:
                raise TypeError(f"{name} without kernel_size needs rpb with {rank + 1} axes to tell it from")
            return tuple((side + 1) // 2 for side in rpb.shape[1:])

        size, gap = _window(name, window, kernel_size, dilation, inferred)
        return operator(query, key, size, gap, rpb=rpb)

    return _named(
        function,
        module,
        name,
        f"""`{name}(query, key, rpb, kernel_size, dilation)`: logits `q k^T + rpb` of every query's window.

    {_RULE.format(source="`rpb`")} Shapes and errors are those of `visionattn.ops.na{rank}d_qk`; `query` comes scaled.
    """,
    )


def qk(rank: int, module: str) -> Callable[..., Tensor]:
    name, operator = f"natten{rank}dqk", getattr(ops, f"na{rank}d_qk")

    def function(query: Tensor, key: Tensor, kernel_size: Any, dilation: Any = 1) -> Tensor:
        return operator(query, key, kernel_size, dilation)

    return _named(function, module, name, f"`visionattn.ops.na{rank}d_qk` without a bias; `query` comes scaled.")


def av(rank: int, module: str) -> Callable[..., Tensor]:
    name, operator = f"natten{rank}dav", getattr(ops, f"na{rank}d_av")

    def function(attn: Tensor, value: Tensor, *window: Any, kernel_size: Any = None, dilation: Any = None) -> Tensor:
        def inferred() -> int:
            side = round(attn.shape[-1] ** (1 / rank))
            if side**rank != attn.shape[-1]:
                raise ValueError(
                    f"{name} without kernel_size needs attn with k ** {rank} entries in its last axis, "
                    f"got {attn.shape[-1]}"
                )
            return side

        size, gap = _window(name, window, kernel_size, dilation, inferred)
        return operator(attn, value, size, gap)

    return _named(
        function,
        module,
        name,
        f"""`{name}(attn, value, kernel_size, dilation)`: window values weighted by `attn`.

    {_RULE.format(source="`attn`")} Shapes and errors are those of `visionattn.ops.na{rank}d_av`.
    """,
    )
