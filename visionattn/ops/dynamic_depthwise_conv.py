"""Depthwise convolution whose kernels are data: other ones for every image and channel."""

from __future__ import annotations

import torch
from torch import Tensor

from visionattn.ops import _arguments as check
from visionattn.ops import _operators
from visionattn.ops._triton import TritonOperator

__all__ = ["dynamic_depthwise_conv"]


def dynamic_depthwise_conv(value: Tensor, kernels: Tensor, *, backend: str = "auto") -> Tensor:
    """Cross-correlates every channel of every image with a kernel of its own; zeros beyond the border.

    `out[b, c, h, w] = sum_ij kernels[b, c, i, j] * value[b, c, h + i - kh // 2, w + j - kw // 2]`, with sums in float32
    (float64 for float64).

    Args:
        value: `[batch, channels, height, width]`, float16, bfloat16, float32 or float64; contiguous, channels-last or
            any other strides.
        kernels: `[batch, channels, kh, kw]`, kh and kw odd; any floating dtype.
        backend: `"auto"`: Triton kernels on CUDA for 3 x 3 kernels, else plain PyTorch; `"reference"`: plain
            PyTorch, differentiable any number of times; `"triton"`: the kernels or an error.

    Returns:
        `[batch, channels, height, width]` in the dtype and memory layout of `value`.

    Raises:
        TypeError: an argument of the wrong type or dtype.
        ValueError: shapes or devices that do not fit; the message names the argument.
        NotImplementedError: `backend="triton"` where the kernels can't serve; the message says why.

    Source: Attentive Convolution (AttNet), its last step.
    """
    check.check_tensor("value", value, 4)
    check.check_tensor("kernels", kernels, 4)
    batch, channels, height, width = value.shape
    if channels < 1 or height < 1 or width < 1:
        raise ValueError(f"value must have at least one channel and position, got shape {list(value.shape)}")
    check.check_shape("kernels", kernels, [batch, channels, None, None], "[batch, channels, kh, kw]")
    if not (kernels.shape[2] % 2 and kernels.shape[3] % 2):
        raise ValueError(f"kernels must have odd sides, got {list(kernels.shape[2:])}")
    if kernels.device != value.device:
        raise ValueError(f"kernels must be on the device of value, {value.device}, got {kernels.device}")
    if _operators.is_autocast_enabled(value.device.type):
        (value,) = _operators.autocast(value.device.type, (value,))
    return _OPERATOR(backend, value, kernels)


def has_dense_rows(x: Tensor) -> bool:
    """Whether the positions of a map `[..., height, width]` are equally far apart in memory, in raster order."""
    return x.shape[-2] == 1 or x.shape[-1] == 1 or x.stride(-2) == x.shape[-1] * x.stride(-1)


def empty_like_map(x: Tensor) -> Tensor:
    """A map of the shape, dtype and device of `x`, and of its layout unless that has no dense rows."""
    return torch.empty_like(x) if has_dense_rows(x) else torch.empty_like(x, memory_format=torch.contiguous_format)


def _fake(value: Tensor, kernels: Tensor) -> tuple[Tensor, ...]:
    return (empty_like_map(value),)


def _reasons(value: Tensor, kernels: Tensor) -> str | None:
    if kernels.shape[2] != 3 or kernels.shape[3] != 3:
        return f"kernels must be 3 x 3, got {list(kernels.shape[2:])}"
    if kernels.dtype == torch.float64:
        return "kernels of float64"
    return None


_OPERATOR = TritonOperator(
    "dynamic_depthwise_conv", "Tensor value, Tensor kernels", _fake, saved=0, reasons=_reasons, kept=(1,)
)
