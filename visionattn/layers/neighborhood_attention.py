"""Multi-head neighborhood attention with its projections, as NAT and DiNAT use it."""

# No `from __future__ import annotations` here: TorchScript reads the annotations.
from typing import List, Optional, Union

import torch
import torch.nn.functional as F
from timm.layers import is_exportable, register_notrace_function, trunc_normal_
from torch import Tensor, nn

from visionattn import ops
from visionattn.ops import _arguments as check
from visionattn.ops._arguments import BoolOrTuple, IntOrTuple

__all__ = ["NeighborhoodAttention1D", "NeighborhoodAttention2D", "NeighborhoodAttention3D"]

PADDING = ("zero", "masked", "error")


@register_notrace_function  # compares sizes, which a symbolic trace can't
def largest_dilation(x: Tensor, kernel_size: List[int]) -> List[int]:
    """The largest dilation per axis of `x` `[batch, *spatial, channels]` whose window still fits, at least 1."""
    return [max(1, x.shape[axis + 1] // k) for axis, k in enumerate(kernel_size)]


@register_notrace_function
def pad_to_window(x: Tensor, kernel_size: List[int], dilation: List[int]) -> Tensor:
    """Zero-pads the axes of `x` `[batch, *spatial, channels]` that are shorter than the window, at their ends."""
    pad: List[int] = [0, 0]
    for axis in range(len(kernel_size) - 1, -1, -1):
        pad += [0, max(0, kernel_size[axis] * dilation[axis] - x.shape[axis + 1])]
    return F.pad(x, pad) if max(pad) > 0 else x


@register_notrace_function
def crop_to(x: Tensor, like: Tensor) -> Tensor:
    """Cuts the spatial axes of `x` `[batch, *spatial, channels]` to those of `like`."""
    for axis in range(1, x.dim() - 1):
        if x.shape[axis] != like.shape[axis]:
            x = x.narrow(axis, 0, like.shape[axis])
    return x


@register_notrace_function
def attend(
    qkv: Tensor,
    rpb: Optional[Tensor],
    kernel_size: List[int],
    stride: List[int],
    dilation: List[int],
    is_causal: List[bool],
    scale: float,
    clip_window: bool,
    backend: str,
) -> Tensor:
    """Attends within a packed projection: `[batch, *spatial, 3, heads, head_dim]` -> `[batch, *spatial, channels]`."""
    if torch.jit.is_scripting():  # the checks of ops.na_qkv are beyond TorchScript
        causal = [int(flag) for flag in is_causal]
        bias = rpb if rpb is None else rpb.to(torch.float64 if qkv.dtype == torch.float64 else torch.float32)
        out, _ = torch.ops.visionattn.neighborhood_attention_qkv(
            qkv, bias, kernel_size, stride, dilation, causal, scale
        )
    else:
        out = ops.na_qkv(
            qkv, kernel_size, stride, dilation, is_causal, scale, rpb, clip_window=clip_window, backend=backend
        )
    return out.flatten(-2)


class _NeighborhoodAttention(nn.Module):
    """Neighborhood attention over `rank` spatial axes: `[batch, *spatial, dim]` -> the same.

    Args:
        dim: Channels, a multiple of `num_heads`.
        num_heads: Attention heads.
        kernel_size: Window size, one int or one per axis.
        stride: Queries per axis that share a window.
        dilation: Gap between neighboring keys. May be set on the module at any time. "max": the largest that fits the
            map on each axis (Hassani and Shi, 2022), chosen anew for every input.
        is_causal: Whether a query sees no key after itself.
        rel_pos_bias: Learn a relative positional bias `rpb` `[num_heads, 2 * kernel_size - 1, ...]`.
        qkv_bias: Bias of the qkv projection.
        qk_scale: Factor on the logits, `head_dim ** -0.5` by default.
        attn_drop: Dropout on the attention weights; above 0, training takes the unfused operators (stride 1 only).
        proj_drop: Dropout after the output projection.
        padding: What happens where `kernel_size * dilation` exceeds the map. `"zero"`: the input is zero-padded to it
            and padded positions take part in attention, as in the released models (Hassani and Shi, 2022); `"masked"`:
            the window is cut to the map; `"error"`: ValueError.
        device: Device of the parameters.
        dtype: Dtype of the parameters.

    Raises:
        ValueError: an argument out of range.
        TypeError: an argument of the wrong type.
    """

    rank: int

    def __init__(
        self,
        dim: int,
        num_heads: int,
        kernel_size: IntOrTuple,
        stride: IntOrTuple = 1,
        dilation: Union[IntOrTuple, str] = 1,
        is_causal: BoolOrTuple = False,
        rel_pos_bias: bool = False,
        qkv_bias: bool = True,
        qk_scale: Optional[float] = None,
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
        padding: str = "zero",
        device=None,
        dtype=None,
    ):
        super().__init__()
        dd = {"device": device, "dtype": dtype}
        if num_heads < 1 or dim % num_heads:
            raise ValueError(f"dim must be a multiple of num_heads, got dim={dim} and num_heads={num_heads}")
        if padding not in PADDING:
            raise ValueError(f"padding must be one of {', '.join(PADDING)}, got {padding!r}")
        self.max_dilation = dilation == "max"
        area = check.neighborhood(
            [2**31] * self.rank, kernel_size, stride, 1 if self.max_dilation else dilation, is_causal
        )
        if rel_pos_bias and any(area.is_causal):
            raise NotImplementedError("rel_pos_bias with a causal axis is not defined")
        if attn_drop > 0 and max(area.stride) > 1:
            raise NotImplementedError("attn_drop is implemented for stride 1 only")
        self.num_heads = num_heads
        self.head_dim = dim // num_heads
        self.kernel_size = area.kernel_size
        self.stride = area.stride
        self.dilation = area.dilation
        self.is_causal = [bool(flag) for flag in area.is_causal]
        self.scale = qk_scale or self.head_dim**-0.5
        self.padding = padding
        self.backend = "reference" if is_exportable() else "auto"

        if rel_pos_bias:
            self.rpb = nn.Parameter(torch.empty(num_heads, *(2 * k - 1 for k in self.kernel_size), **dd))
        else:
            self.register_parameter("rpb", None)
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias, **dd)
        self.attn_drop = nn.Dropout(attn_drop)
        self.proj = nn.Linear(dim, dim, **dd)
        self.proj_drop = nn.Dropout(proj_drop)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialises the bias table as the papers do; the projections keep torch's default."""
        if self.rpb is not None:
            trunc_normal_(self.rpb, std=0.02)

    def extra_repr(self) -> str:
        dilation = "max" if self.max_dilation else self.dilation
        return (
            f"num_heads={self.num_heads}, kernel_size={self.kernel_size}, stride={self.stride}, dilation={dilation}, "
            f"is_causal={self.is_causal}, padding={self.padding!r}"
        )

    @torch.jit.unused
    def _attend_with_dropout(self, qkv: Tensor, dilation: List[int]) -> Tensor:
        query, key, value = qkv.movedim(-2, 1).unbind(-2)  # heads first
        qk, av = ((ops.na1d_qk, ops.na1d_av), (ops.na2d_qk, ops.na2d_av), (ops.na3d_qk, ops.na3d_av))[self.rank - 1]
        clip = self.padding == "masked"
        logits = qk(
            query * self.scale, key, self.kernel_size, dilation, None, self.is_causal, self.rpb, clip_window=clip
        )
        weights = self.attn_drop(logits.softmax(-1))
        out = av(weights, value, self.kernel_size, dilation, None, self.is_causal, clip_window=clip)
        return out.movedim(1, -2).flatten(-2)

    def forward(self, x: Tensor) -> Tensor:
        dilation = largest_dilation(x, self.kernel_size) if self.max_dilation else self.dilation
        padded = pad_to_window(x, self.kernel_size, dilation) if self.padding == "zero" else x
        qkv = self.qkv(padded).unflatten(-1, (3, self.num_heads, self.head_dim))
        if self.training and self.attn_drop.p > 0.0:
            out = self._attend_with_dropout(qkv, dilation)
        else:
            out = attend(
                qkv, self.rpb, self.kernel_size, self.stride, dilation, self.is_causal, self.scale,
                self.padding == "masked", self.backend,
            )  # fmt: skip
        return self.proj_drop(self.proj(crop_to(out, x)))


class NeighborhoodAttention1D(_NeighborhoodAttention):
    __doc__ = _NeighborhoodAttention.__doc__
    rank = 1


class NeighborhoodAttention2D(_NeighborhoodAttention):
    __doc__ = _NeighborhoodAttention.__doc__
    rank = 2


class NeighborhoodAttention3D(_NeighborhoodAttention):
    __doc__ = _NeighborhoodAttention.__doc__
    rank = 3
