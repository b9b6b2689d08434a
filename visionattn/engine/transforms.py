"""Augmentations that change pictures, boxes and masks together: those of torchvision.transforms.v2 by name."""

from __future__ import annotations

from typing import Any, Mapping, Sequence

import torch
from torchvision.transforms import v2

__all__ = ["build_transforms"]


def build_transforms(steps: Sequence[Mapping[str, Any]]) -> v2.Transform:
    """A chain of transforms from a config's list.

    Args:
        steps: `dict(type=..., **arguments)` each, with the name of a class in `torchvision.transforms.v2`.

    Returns:
        A transform of (image, targets): uint8 images `[3, H, W]`, targets with torchvision's `tv_tensors`.

    Raises:
        ValueError: a name that torchvision doesn't have.
        TypeError: an argument that a transform doesn't take.
    """
    chain = []
    for step in steps:
        arguments = dict(step)
        name = arguments.pop("type", None)
        kind = getattr(v2, str(name), None)
        if not (isinstance(kind, type) and issubclass(kind, torch.nn.Module)):
            raise ValueError(f"transforms must name classes of torchvision.transforms.v2, got {name!r}")
        try:
            chain.append(kind(**arguments))
        except TypeError as error:
            raise TypeError(f"transform {name}: {error}") from error
    return v2.Compose(chain) if chain else v2.Identity()
