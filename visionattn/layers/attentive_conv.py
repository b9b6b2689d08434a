"""Attentive convolution with its projections, on maps and on tokens."""

# No `from __future__ import annotations` here: TorchScript reads the annotations.
from typing import Tuple

import torch
from timm.layers import is_exportable, register_notrace_function
from torch import Tensor, nn

from visionattn import ops
from visionattn.ops import reference
from visionattn.ops.attentive_conv import ACTIVATIONS

__all__ = ["AttentiveConv", "AttentiveConv2d"]


@register_notrace_function  # the operators compare sizes, which a symbolic trace can't
def pool_bands(x: Tensor, bands: int, backend: str) -> Tensor:
    """`[B, C, H, W]` to `[B, C, bands]`."""
    if torch.jit.is_scripting():  # the checks of the operators are beyond TorchScript
        return reference.band_pool(x, bands)
    return ops.band_pool(x, bands, backend=backend)


@register_notrace_function
def convolve(
    value: Tensor,
    context: Tensor,
    weight: Tensor,
    bias: Tensor,
    difference: Tensor,
    activation: str,
    kernel_size: int,
    backend: str,
) -> Tensor:
    """`[B, C, H, W]`, convolved with kernels made of `context` `[B, C, kernel_size**2]`."""
    if torch.jit.is_scripting():
        kernels = reference.attentive_kernels(context, weight, bias, difference, activation)
        return reference.dynamic_depthwise_conv(value, kernels.unflatten(2, [kernel_size, kernel_size]))
    return ops.attentive_conv(value, context, weight, bias, difference, activation, backend=backend)


class _AttentiveConv(nn.Module):
    """What both layouts share: parameters and what is done to a map between the projections.

    `kernel_proj` comes after the pooling, on `kernel_size**2` positions instead of all: pooling is a mean, so the order
    makes no difference to the result or to its gradient.
    """

    def __init__(self, dim: int, kernel_size: int, activation: str, device=None, dtype=None):
        super().__init__()
        if isinstance(kernel_size, bool) or not isinstance(kernel_size, int):
            raise TypeError(f"kernel_size must be an int, got {kernel_size!r}")
        if kernel_size < 1 or not kernel_size % 2:
            raise ValueError(f"kernel_size must be odd and at least 1, got {kernel_size}")
        if activation not in ACTIVATIONS:
            raise ValueError(f"activation must be one of {', '.join(map(repr, ACTIVATIONS))}, got {activation!r}")
        self.kernel_size = kernel_size
        self.taps = kernel_size * kernel_size
        self.activation = activation
        self.backend = "reference" if is_exportable() else "auto"
        self.difference_control = nn.Parameter(torch.empty(dim, device=device, dtype=dtype))
        self.kernel_gen = nn.Linear(self.taps, self.taps, device=device, dtype=dtype)

    def reset_parameters(self) -> None:
        """Half of a kernel's mean is taken away; the projections keep torch's default."""
        nn.init.zeros_(self.difference_control)

    def extra_repr(self) -> str:
        return f"kernel_size={self.kernel_size}, activation={self.activation!r}"

    def _convolve(self, value: Tensor, context: Tensor) -> Tensor:
        return convolve(
            value,
            context,
            self.kernel_gen.weight,
            self.kernel_gen.bias,
            self.difference_control,
            self.activation,
            self.kernel_size,
            self.backend,
        )


class AttentiveConv2d(_AttentiveConv):
    """Attentive convolution (ATConv) on maps: `[B, dim, H, W]` to the same, at any size.

    The depthwise kernels are made of the means of horizontal bands of the map, so they depend on its shape, and padding
    an image changes all of them. Source: Attentive Convolution (AttNet).

    Args:
        dim: Channels.
        kernel_size: Side of the kernels, odd.
        activation: Of the pooled context: "gelu", "gelu_tanh" or "silu".
        device: Device of the parameters.
        dtype: Dtype of the parameters.

    Raises:
        TypeError: `kernel_size` is not an int.
        ValueError: an argument out of range.
    """

    def __init__(self, dim: int, kernel_size: int = 3, activation: str = "gelu", device=None, dtype=None):
        dd = dict(device=device, dtype=dtype)
        super().__init__(dim, kernel_size, activation, **dd)
        self.kernel_proj = nn.Conv2d(dim, dim, 1, **dd)
        self.x_proj = nn.Conv2d(dim, dim, 1, **dd)
        self.proj = nn.Conv2d(dim, dim, 1, **dd)
        self.reset_parameters()

    def forward(self, x: Tensor) -> Tensor:
        context = self.kernel_proj(pool_bands(x, self.taps, self.backend).unsqueeze(-1)).squeeze(-1)
        return self.proj(self._convolve(self.x_proj(x), context))


class AttentiveConv(_AttentiveConv):
    """Attentive convolution on tokens in raster order: `[B, H * W, dim]` to the same; see `AttentiveConv2d`.

    Takes the place of self-attention in diffusion transformers: with "gelu_tanh" in SiT, with "silu" in REPA.
    """

    def __init__(self, dim: int, kernel_size: int = 3, activation: str = "gelu", device=None, dtype=None):
        dd = dict(device=device, dtype=dtype)
        super().__init__(dim, kernel_size, activation, **dd)
        self.kernel_proj = nn.Linear(dim, dim, **dd)
        self.x_proj = nn.Linear(dim, dim, **dd)
        self.proj = nn.Linear(dim, dim, **dd)
        self.reset_parameters()

    def forward(self, x: Tensor, size: Tuple[int, int]) -> Tensor:
        """`size`: height and width of the map."""
        if x.shape[1] != size[0] * size[1]:
            raise ValueError(f"x must have size[0] * size[1] = {size[0]} * {size[1]} tokens, got {x.shape[1]}")
        height, width = size
        tokens = self.x_proj(x)
        pooled = pool_bands(x.transpose(1, 2).unflatten(2, [height, width]), self.taps, self.backend)
        context = self.kernel_proj(pooled.transpose(1, 2)).transpose(1, 2)
        out = self._convolve(tokens.transpose(1, 2).unflatten(2, [height, width]), context)
        return self.proj(out.flatten(2).transpose(1, 2))
