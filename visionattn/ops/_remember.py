"""Argument checks once per kind of call: in Python they take as long as the launch of a kernel."""

from __future__ import annotations

from typing import Any, Callable, Optional

import torch
from torch import Tensor

__all__ = ["remember"]

_LIMIT = 4096
_RESULTS: dict[tuple, Any] = {}


def _key(function: Callable[..., Any], tensors: tuple, options: tuple) -> tuple:
    key: list[Any] = [function]
    for x in tensors:
        if x is None:
            key.append(None)
        elif isinstance(x, Tensor) and x.layout == torch.strided and not x.is_nested:
            key += (x.shape, x.dtype, x.device)
        else:
            raise TypeError
    for x in options:  # with their types: 1, 1.0 and True are equal, and not all of them are allowed
        if isinstance(x, (list, tuple)):
            key += (tuple(x), *map(type, x))
        else:
            key += (x, type(x))
    return tuple(key)


def remember(function: Callable[..., Any], tensors: tuple[Optional[Tensor], ...], options: tuple) -> Any:
    """`function(*tensors, *options)`, which must depend on the tensors' shapes, dtypes and devices alone.

    What it raises is not remembered, and neither are calls under a tracer or with arguments that have no hash.
    """
    if torch.compiler.is_compiling():
        return function(*tensors, *options)
    try:
        key = _key(function, tensors, options)
        result = _RESULTS.get(key)
    except TypeError:  # symbolic sizes, or arguments of a wrong type, which `function` will tell
        return function(*tensors, *options)
    if result is None:
        result = function(*tensors, *options)
        if len(_RESULTS) >= _LIMIT:
            _RESULTS.clear()
        _RESULTS[key] = result
    return result
