"""Softmax-free attention with its projections, as SOFT and SOFT++ use it.

Sources: SOFT (Lu et al., NeurIPS 2021, arXiv:2110.11945), Softmax-free Linear Transformers (Lu et al., IJCV 2024,
arXiv:2207.03341) and their released code.
"""

import torch
import torch.nn.functional as F
from timm.layers import register_notrace_function
from torch import Tensor, nn

from visionattn import ops
from visionattn.ops import reference
from visionattn.ops.newton_inverse import METHODS

__all__ = ["SoftmaxFreeAttention"]


@register_notrace_function  # compares sizes, which a symbolic trace can't
def landmark_windows(x: Tensor, stride: int) -> Tensor:
    """`[B, H, W, C]` to windows `[B, m, stride, stride, C]`, without the rows and columns that don't fill one.

    A map smaller than a window is zero-padded to one.
    """
    batch, height, width, channels = x.shape
    if height < stride or width < stride:
        x = F.pad(x, [0, 0, 0, max(0, stride - width), 0, max(0, stride - height)])
    rows, columns = max(1, height // stride), max(1, width // stride)
    x = x[:, : rows * stride, : columns * stride].reshape(batch, rows, stride, columns, stride, channels)
    return x.transpose(2, 3).reshape(batch, rows * columns, stride, stride, channels)


@register_notrace_function
def attend(query: Tensor, landmarks: Tensor, value: Tensor, inverse: str, max_iter: int, normalize: bool) -> Tensor:
    """`[B, heads, N, d]`, `[B, heads, m, d]` and `[B, heads, N, d]` to `[B, heads, N, d]`."""
    if torch.jit.is_scripting():  # the checks of ops.gaussian_attention are beyond TorchScript
        return reference.gaussian_attention(query, landmarks, value, inverse, max_iter, normalize)
    else:
        return ops.gaussian_attention(query, landmarks, value, inverse, max_iter, normalize)


class SoftmaxFreeAttention(nn.Module):
    """Gaussian attention over a map, its keys being its queries, and a convolution of the values.

    `[B, H, W, dim]` to the same.

    Args:
        dim: Channels, a multiple of `num_heads`.
        num_heads: Attention heads.
        landmark_stride: Side of the windows that give one landmark each; a convolution that the heads share.
        local_kernel: Side of the convolution of the values, one filter per head.
        inverse: "damped" or "global", see `visionattn.ops.newton_inverse`.
        normalize: Whether the inverse is scaled by the landmarks' degrees.
        newton_iterations: Iterations of the inverse.
        device: Device of the parameters.
        dtype: Dtype of the parameters.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        landmark_stride: int,
        local_kernel: int,
        inverse: str = "damped",
        normalize: bool = False,
        newton_iterations: int = 20,
        device=None,
        dtype=None,
    ):
        dd = dict(device=device, dtype=dtype)
        super().__init__()
        if num_heads < 1 or dim % num_heads:
            raise ValueError(f"dim must be a multiple of num_heads, got dim={dim} and num_heads={num_heads}")
        if inverse not in METHODS:
            raise ValueError(f"inverse must be one of {', '.join(map(repr, METHODS))}, got {inverse!r}")
        self.num_heads = num_heads
        self.head_dim = dim // num_heads
        self.landmark_stride = landmark_stride
        self.inverse = inverse
        self.normalize = normalize
        self.newton_iterations = newton_iterations
        self.q = nn.Linear(dim, dim, **dd)
        self.v = nn.Linear(dim, dim, **dd)
        self.landmark = nn.Conv2d(self.head_dim, self.head_dim, landmark_stride, landmark_stride, bias=False, **dd)
        self.landmark_norm = nn.LayerNorm(self.head_dim, **dd)
        self.local = nn.Conv2d(
            num_heads, num_heads, local_kernel, 1, local_kernel // 2, groups=num_heads, bias=False, **dd
        )
        self.proj = nn.Linear(dim, dim, **dd)

    def _heads(self, x: Tensor) -> Tensor:
        """`[B, N, dim]` to `[B, heads, N, d]`."""
        return x.unflatten(2, [self.num_heads, self.head_dim]).transpose(1, 2)

    def _landmarks(self, query: Tensor) -> Tensor:
        """`[B, H, W, dim]` to `[B, heads, m, d]`: the strided convolution as a product with every window."""
        windows = landmark_windows(query, self.landmark_stride).unflatten(4, [self.num_heads, self.head_dim])
        windows = windows.permute(0, 4, 1, 5, 2, 3).flatten(3)
        return F.gelu(self.landmark_norm(F.linear(windows, self.landmark.weight.flatten(1)))).to(query.dtype)

    def forward(self, x: Tensor) -> Tensor:
        batch, height, width, channels = x.shape
        query = self.q(x) * self.head_dim**-0.25
        value = self.v(x)
        out = attend(
            self._heads(query.flatten(1, 2)), self._landmarks(query), self._heads(value.flatten(1, 2)),
            self.inverse, self.newton_iterations, self.normalize,
        )  # fmt: skip
        out = out.transpose(1, 2).reshape(batch, height, width, channels)
        filters = self.local.weight.repeat_interleave(self.head_dim, 0)
        local = F.conv2d(value.permute(0, 3, 1, 2), filters, None, 1, self.local.padding, 1, channels)
        return self.proj(out + local.permute(0, 2, 3, 1))
