"""Attentive convolution at AttNet's maps, beside the grouped convolution of the released code."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, Callable, Dict, List, Optional, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor

from visionattn import ops
from visionattn.engine.benchmark_suites.problem import Maker, Problem
from visionattn.ops import reference

__all__ = ["CONV_CASES", "ConvCase"]

_TAPS = 9


def grouped(value: Tensor, kernels: Tensor) -> Tensor:
    """One image of `batch * channels` channels, a group each: what the released code runs."""
    batch, channels, height, width = value.shape
    x = value.reshape(1, batch * channels, height, width)
    weight = kernels.to(value.dtype).reshape(batch * channels, 1, *kernels.shape[2:])
    return F.conv2d(x, weight, padding=kernels.shape[3] // 2, groups=batch * channels).view(value.shape)


def unfolded(value: Tensor, kernels: Tensor) -> Tensor:
    """The released code's other way: nine copies of the map, multiplied and summed."""
    columns = F.unfold(value, kernels.shape[3], padding=kernels.shape[3] // 2)
    columns = columns.view(*value.shape[:2], _TAPS, -1)
    return (columns * kernels.to(value.dtype).flatten(2)[..., None]).sum(2).view(value.shape)


def shifted(value: Tensor, kernels: Tensor) -> Tensor:
    """Nine shifted products: what a compiler can fuse."""
    height, width = value.shape[2:]
    side = kernels.shape[3]
    padded = F.pad(value, [side // 2] * 4)
    out = torch.zeros_like(value, dtype=torch.float32)
    for i in range(side):
        for j in range(side):
            out = out + padded[:, :, i : i + height, j : j + width] * kernels[:, :, i : i + 1, j : j + 1]
    return out.to(value.dtype)


def attentive(convolve: Callable[..., Tensor], value: Tensor, context: Tensor, *parameters: Tensor) -> Tensor:
    """Attentive convolution in plain PyTorch around a dynamic one."""
    kernels = reference.attentive_kernels(context, *parameters, "gelu")
    return convolve(value, kernels.unflatten(2, (3, 3)))


@dataclass(frozen=True)
class ConvCase(Problem):
    """One problem of a 3 x 3 convolution.

    Attributes:
        operator: Name in `visionattn.ops`.
        batch: Batch size.
        channels: Channels.
        height: Rows of the map.
        width: Columns of the map.
        channels_last: Layout of the map.
        goal: Times of forward, and of forward with backward, over the floor that we want to reach.
    """

    operator: str
    batch: int
    channels: int
    height: int
    width: int
    channels_last: bool = False
    goal: Tuple[Optional[float], Optional[float]] = (2.0, 3.0)

    @property
    def name(self) -> str:
        layout = " channels-last" if self.channels_last else ""
        return f"{self.operator}: {self.batch}x{self.channels}x{self.height}x{self.width}{layout}"

    def bytes_moved(self, element_size: int, training: bool) -> float:
        """The map in and out; backward the map and a gradient in and one out. Pooling reads, then writes, one map."""
        tensor = self.batch * self.channels * self.height * self.width * element_size
        if self.operator == "band_pool":
            return tensor * (2 if training else 1)
        return tensor * (5 if training else 2)

    def flops(self, training: bool) -> float:
        forward = 2.0 * self.batch * self.channels * self.height * self.width
        return forward * (1 if self.operator == "band_pool" else _TAPS) * (3 if training else 1)

    def contestants(self) -> Dict[str, Maker]:
        own = getattr(ops, self.operator)
        if self.operator == "band_pool":
            plain = {"plain": lambda x: reference.band_pool(x, _TAPS)}
            functions = {"ours": lambda x: own(x, _TAPS), **plain}
        else:
            plain = {"grouped": grouped, "unfolded": unfolded, "plain": shifted}
            if self.operator == "attentive_conv":
                plain = {name: partial(attentive, function) for name, function in plain.items()}
            functions = {"ours": own, **plain}
        functions["compiled"] = torch.compile(plain["plain"], dynamic=False)
        return {name: partial(Map, self, function) for name, function in functions.items()}


class Map:
    """An operator on a map.

    Args:
        case: The problem.
        function: Takes the map and the operator's other tensors.
        device: Where to run.
        dtype: Of the map.
    """

    def __init__(self, case: ConvCase, function: Callable[..., Tensor], device: torch.device, dtype: torch.dtype):
        self.function = function
        options: Dict[str, Any] = dict(device=device, dtype=dtype)
        value, grad = (torch.randn(case.batch, case.channels, case.height, case.width, **options) for _ in range(2))
        layout = torch.channels_last if case.channels_last else torch.contiguous_format
        self.tensors = [value.to(memory_format=layout)]
        self.grad = grad.to(memory_format=layout)
        if case.operator == "dynamic_depthwise_conv":
            self.tensors.append(torch.randn(case.batch, case.channels, 3, 3, **options))
        elif case.operator == "attentive_conv":
            self.tensors.append(torch.randn(case.batch, case.channels, _TAPS, **options))
            self.tensors += [torch.randn(shape, device=device) for shape in ((_TAPS, _TAPS), _TAPS, case.channels)]
        else:
            self.grad = torch.randn(case.batch, case.channels, _TAPS, **options)

    def leaves(self) -> List[Tensor]:
        return self.tensors

    def forward(self) -> Tensor:
        return self.function(*self.tensors)


# The stages of AttNet-T2 at 224, a detector's first stage, one large image.
_MAPS = (
    (128, 64, 56, 56),
    (128, 128, 28, 28),
    (128, 288, 14, 14),
    (128, 512, 7, 7),
    (2, 64, 200, 304),
    (1, 64, 512, 512),
)
CONV_CASES = tuple(
    ConvCase(operator, *shape, channels_last=channels_last)
    for operator in ("dynamic_depthwise_conv", "attentive_conv", "band_pool")
    for channels_last in (False, True)
    for shape in (_MAPS if operator == "dynamic_depthwise_conv" else _MAPS[:4])
)
