"""Attentive convolution (ATConv): a convolution whose depthwise kernels are made of what the image shows."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from visionattn.ops import _arguments as check
from visionattn.ops import _operators
from visionattn.ops._triton import TritonOperator
from visionattn.ops.dynamic_depthwise_conv import dynamic_depthwise_conv

__all__ = ["ACTIVATIONS", "attentive_conv", "attentive_kernels", "band_pool"]

ACTIVATIONS = ("gelu", "gelu_tanh", "silu")
_LARGEST_TAPS = 49  # of the Triton kernels


def band_pool(x: Tensor, bands: int, *, backend: str = "auto") -> Tensor:
    """Means of `bands` horizontal bands of a map: adaptive average pooling of its positions in raster order.

    Band i holds the positions `floor(i N / bands)` to `ceil((i + 1) N / bands)` of the N = height * width there are, so
    that bands overlap by a position where `bands` does not divide N. Sums are float32 (float64 for float64).

    Args:
        x: `[batch, channels, height, width]`, any floating dtype, any strides.
        bands: How many, at least 1.
        backend: As in `attentive_conv`.

    Returns:
        `[batch, channels, bands]`, contiguous, in the dtype of `x`.

    Raises:
        TypeError, ValueError, NotImplementedError: as `attentive_conv`.
    """
    check.check_tensor("x", x, 4)
    if x.shape[1] < 1 or x.shape[2] < 1 or x.shape[3] < 1:
        raise ValueError(f"x must have at least one channel and position, got shape {list(x.shape)}")
    if isinstance(bands, bool) or not isinstance(bands, int):
        raise TypeError(f"bands must be an int, got {type(bands).__name__}")
    if bands < 1:
        raise ValueError(f"bands must be at least 1, got {bands}")
    return _POOL(backend, x, bands)


def attentive_kernels(
    context: Tensor,
    weight: Tensor,
    bias: Tensor,
    difference: Tensor,
    activation: str = "gelu",
    *,
    backend: str = "auto",
) -> Tensor:
    """Depthwise kernels out of a context vector per channel, each less a part of its own mean.

    `a = activation(context) @ weight^T + bias`, then `a - sigmoid(difference) * mean(a)`: the mean is over the taps
    ("lateral inhibition"). Computed in float32 (float64 for float64), also under autocast.

    Args:
        context: `[batch, channels, taps]`.
        weight: `[taps, taps]`, shared by all channels.
        bias: `[taps]`.
        difference: `[channels]`.
        activation: `"gelu"` (exact), `"gelu_tanh"` or `"silu"`.
        backend: As in `attentive_conv`.

    Returns:
        `[batch, channels, taps]`, float32 (float64 for float64).

    Raises:
        TypeError, ValueError, NotImplementedError: as `attentive_conv`.
    """
    check.check_tensor("context", context, 3)
    _, channels, taps = context.shape
    for name, x, shape, axes in (
        ("weight", weight, [taps, taps], "[taps, taps]"),
        ("bias", bias, [taps], "[taps]"),
        ("difference", difference, [channels], "[channels]"),
    ):
        check.check_tensor(name, x)
        check.check_shape(name, x, shape, axes)
        if x.device != context.device:
            raise ValueError(f"{name} must be on the device of context, {context.device}, got {x.device}")
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation must be one of {', '.join(map(repr, ACTIVATIONS))}, got {activation!r}")
    return _KERNELS(backend, context, weight, bias, difference, activation)


def attentive_conv(
    value: Tensor,
    context: Tensor,
    weight: Tensor,
    bias: Tensor,
    difference: Tensor,
    activation: str = "gelu",
    *,
    backend: str = "auto",
) -> Tensor:
    """Convolves every channel of every image with a kernel made of its context.

    `dynamic_depthwise_conv(value, attentive_kernels(context, ...))`; the context is `band_pool` of the map that `value`
    is a projection of, projected too. Taps have no geometric relation to bands: `weight` mixes all bands into each tap.

    Args:
        value: `[batch, channels, height, width]`, float16, bfloat16, float32 or float64; contiguous, channels-last or
            any other strides.
        context: `[batch, channels, k * k]`, k odd.
        weight: `[k * k, k * k]`, to the row-major taps of a kernel.
        bias: `[k * k]`.
        difference: `[channels]`; its sigmoid is the part of the mean that a kernel loses.
        activation: `"gelu"` (exact; AttNet), `"gelu_tanh"` or `"silu"` (in diffusion models).
        backend: `"auto"`: Triton kernels on CUDA, for the convolution if k is 3, else plain PyTorch; `"reference"`:
            plain PyTorch, differentiable any number of times; `"triton"`: the kernels or an error.

    Returns:
        `[batch, channels, height, width]` in the dtype and memory layout of `value`.

    Raises:
        TypeError: an argument of the wrong type or dtype.
        ValueError: shapes, devices or values that do not fit; the message names the argument.
        NotImplementedError: `backend="triton"` where the kernels can't serve; the message says why.

    Source: Attentive Convolution (AttNet): context-to-kernel translation and differential kernel modulation.
    """
    check.check_tensor("value", value, 4)
    check.check_tensor("context", context, 3)
    side = math.isqrt(int(context.shape[2]))
    if side * side != context.shape[2] or not side % 2:
        raise ValueError(f"context must have k * k entries per channel, k odd, got shape {list(context.shape)}")
    kernels = attentive_kernels(context, weight, bias, difference, activation, backend=backend)
    return dynamic_depthwise_conv(value, kernels.unflatten(2, (side, side)), backend=backend)


def _fake_pool(x: Tensor, bands: int) -> tuple[Tensor, ...]:
    return (x.new_empty((*x.shape[:2], bands)),)


def _fake_kernels(
    context: Tensor, weight: Tensor, bias: Tensor, difference: Tensor, activation: str
) -> tuple[Tensor, ...]:
    return (context.new_empty(context.shape, dtype=_operators.accumulator(context.dtype)),)


def _kernel_reasons(context: Tensor, weight: Tensor, bias: Tensor, difference: Tensor, activation: str) -> str | None:
    if context.shape[2] > _LARGEST_TAPS:
        return f"at most {_LARGEST_TAPS} taps, got {context.shape[2]}"
    if torch.float64 in (weight.dtype, bias.dtype, difference.dtype):
        return "parameters of float64"
    return None


_POOL = TritonOperator("band_pool", "Tensor x, int bands", _fake_pool, saved=0, kept=(0,))
_KERNELS = TritonOperator(
    "attentive_kernels",
    "Tensor context, Tensor weight, Tensor bias, Tensor difference, str activation",
    _fake_kernels,
    saved=0,
    reasons=_kernel_reasons,
    kept=(0, 1, 2, 3),
)
