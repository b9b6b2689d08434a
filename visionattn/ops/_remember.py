"""Argument checks once per kind of call: in Python they take as long as the launch of a kernel."""

from __future__ import annotations

from typing import Any, Callable, Optional

import torch
from torch import Tensor

__all__ = ["remember"]

_LIMIT = 4096
_RESULTS: dict[tuple, Any] = {}


def _kind(x: Any) -> Optional[tuple]:
    if x is None:
        return None
    if not isinstance(x, Tensor) or x.layout != torch.strided or x.is_nested:
        raise TypeError
    return (x.shape, x.dtype, x.device)


def _key(tensors: tuple, options: tuple) -> tuple:
    # 1, 1.0 and True are equal, and not all of them are allowed.
    types = [(type(x), *map(type, x)) if isinstance(x, (list, tuple)) else type(x) for x in options]
    values = [tuple(x) if isinstance(x, list) else x for x in options]
    return (*map(_kind, tensors), *values, *types)


def remember(function: Callable[..., Any], tensors: tuple[Optional[Tensor], ...], options: tuple) -> Any:
    """`function(*tensors, *options)`, which must depend on the tensors' shapes, dtypes and devices alone.

    What it raises is not remembered, and neither are calls under a tracer or with arguments that have no hash.
    """
    if torch.compiler.is_compiling():
        return function(*tensors, *options)
    try:
        key = (function, *_key(tensors, options))
        result = _RESULTS.get(key)
    except TypeError:  # symbolic sizes, or arguments of a wrong type, which `function` will tell
        return function(*tensors, *options)
    if result is None:
        result = function(*tensors, *options)
        if len(_RESULTS) >= _LIMIT:
            _RESULTS.clear()
        _RESULTS[key] = result
    return result
