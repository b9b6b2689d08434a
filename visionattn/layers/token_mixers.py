"""Token mixers of (near-)linear cost that take the place of a ViT's softmax attention and keep its projections.

All take tokens `[B, N, C]`: `num_prefix` tokens (class token, registers), then those of a grid in raster order. They
have timm's parameter names `qkv` and `proj`, so that a ViT's weights load; only a mixer's own parameters are new.
"""

from collections import OrderedDict
from typing import Any, Optional, Sequence, Tuple

import torch
from timm.layers import register_notrace_function
from torch import Tensor, nn

from visionattn import ops
from visionattn.ops import reference

__all__ = [
    "CircularAttention",
    "FlowAttention",
    "FocusedLinearAttention",
    "HedgehogAttention",
    "LiTAttention",
    "LinearAttention",
    "MobileAttention",
    "TokenMixer",
]


class TokenMixer(nn.Module):
    """Projections around an attention operator: `[B, N, dim]` to the same.

    Args:
        dim: Channels, a multiple of `num_heads`.
        num_heads: Attention heads.
        qkv_bias: Whether the query, key and value projection has a bias.
        proj_drop: Dropout after the output projection.
        size: Height and width of the grid, for calls that don't tell; None: a square. Mixers that need no grid ignore
            it.
        num_prefix: Tokens before the grid, for calls that don't tell.
        device: Device of the parameters.
        dtype: Dtype of the parameters.

    Raises:
        ValueError: an argument out of range.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int = 8,
        qkv_bias: bool = True,
        proj_drop: float = 0.0,
        size: Optional[Sequence[int]] = None,
        num_prefix: int = 0,
        device=None,
        dtype=None,
    ):
        dd = dict(device=device, dtype=dtype)
        super().__init__()
        if num_heads < 1 or dim % num_heads:
            raise ValueError(f"dim must be a multiple of num_heads, got dim={dim} and num_heads={num_heads}")
        self.num_heads = num_heads
        self.head_dim = dim // num_heads
        self.size: Optional[Tuple[int, int]] = None if size is None else (int(size[0]), int(size[1]))
        self.num_prefix = num_prefix
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias, **dd)
        self.q_norm = nn.Identity()
        self.k_norm = nn.Identity()
        self.norm = nn.Identity()
        self.proj = nn.Linear(dim, dim, **dd)
        self.proj_drop = nn.Dropout(proj_drop)
        self.gate: Optional[nn.Module] = None

    def attend(self, query: Tensor, key: Tensor, value: Tensor, size: Tuple[int, int], num_prefix: int) -> Tensor:
        """`[B, heads, N, d]` each to `[B, heads, N, d]`; `size` is (0, 0) where the mixer needs no grid."""
        raise NotImplementedError

    def forward(
        self,
        x: Tensor,
        hw: Optional[Tuple[int, int]] = None,
        num_prefix: Optional[int] = None,
        attn_mask: Optional[Tensor] = None,
        is_causal: bool = False,
    ) -> Tensor:
        """Mixes the tokens.

        Args:
            x: `[B, num_prefix + H * W, dim]`.
            hw: Height and width of the grid; None for the module's `size`, or a square where that does not fit.
            num_prefix: Tokens before the grid; None for the module's.
            attn_mask: Must be None; there for the interface of timm's attention.
            is_causal: Must be False, likewise.

        Returns:
            Shape and dtype of `x`.

        Raises:
            ValueError: a mask, or tokens that are no such grid.
        """
        if attn_mask is not None or is_causal:
            raise ValueError("attn_mask must be None and is_causal False: this attention takes no mask")
        batch, tokens = x.shape[0], x.shape[1]
        qkv = self.qkv(x).reshape(batch, tokens, 3, self.num_heads, self.head_dim).permute(2, 0, 3, 1, 4)
        query, key, value = qkv.unbind(0)
        query, key = self.q_norm(query), self.k_norm(key)
        prefix = self.num_prefix if num_prefix is None else num_prefix
        out = self.attend(query, key, value, self._grid(tokens, hw, prefix), prefix)
        out = self.norm(out.transpose(1, 2).reshape(batch, tokens, self.num_heads * self.head_dim))
        if self.gate is not None:
            out = out * self.gate(x).sigmoid()
        return self.proj_drop(self.proj(out))

    def _grid(self, tokens: int, hw: Optional[Tuple[int, int]], num_prefix: int) -> Tuple[int, int]:
        return 0, 0


class _GridMixer(TokenMixer):
    """A mixer that needs to know the grid."""

    def _grid(self, tokens: int, hw: Optional[Tuple[int, int]], num_prefix: int) -> Tuple[int, int]:
        count = tokens - num_prefix
        size = self.size if hw is None else hw
        if size is not None and size[0] * size[1] == count:
            return size
        side = round(max(count, 0) ** 0.5)
        if hw is not None or side < 1 or side * side != count:
            raise ValueError(
                f"hw must be the height and width of a grid of {count} tokens, {tokens} less {num_prefix} before it, "
                f"got {size}"
            )
        return side, side


@register_notrace_function  # checks shapes, which a symbolic trace can't
def flow(query: Tensor, key: Tensor, value: Tensor, clamp: bool) -> Tensor:
    """`visionattn.ops.flow_attention` as the vision model has it."""
    if torch.jit.is_scripting():  # the checks are beyond TorchScript
        return reference.flow_attention(query, key, value, 1e-6, 1e-6, clamp)
    else:
        return ops.flow_attention(query, key, value, clamp=clamp)


class FlowAttention(TokenMixer):
    """Flow-Attention, see `visionattn.ops.flow_attention` (Flowformer, ICML 2022).

    Args:
        clamp: Whether the flow of sources is clamped, as released.
    """

    def __init__(self, *args: Any, clamp: bool = True, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.clamp = clamp

    def attend(self, query: Tensor, key: Tensor, value: Tensor, size: Tuple[int, int], num_prefix: int) -> Tensor:
        return flow(query, key, value, self.clamp)


class MobileAttention(TokenMixer):
    """Mobile-Attention, see `visionattn.ops.mobile_attention` (ICML 2024); meant for many narrow heads."""

    def attend(self, query: Tensor, key: Tensor, value: Tensor, size: Tuple[int, int], num_prefix: int) -> Tensor:
        return ops.mobile_attention(query, key, value)


class LinearAttention(TokenMixer):
    """Linear attention over `elu + 1`, see `visionattn.ops.linear_attention` (ICML 2020).

    Sensitive to learning rate and initialization; norms of queries and keys help.
    """

    def attend(self, query: Tensor, key: Tensor, value: Tensor, size: Tuple[int, int], num_prefix: int) -> Tensor:
        return ops.linear_attention(query, key, value)


class _HedgehogMap(nn.Module):
    """Learned map of the features, `layer` `[heads, d, features]`; with "joint", one with a bias for all heads."""

    def __init__(self, num_heads: int, dim: int, features: int, activation: str, skip: bool, device=None, dtype=None):
        dd = dict(device=device, dtype=dtype)
        super().__init__()
        self.activation, self.skip = activation, skip
        heads = 1 if activation == "joint" else num_heads
        self.layer = nn.Parameter(torch.empty(heads, dim, features, **dd))
        self.bias = nn.Parameter(torch.empty(1, features, **dd)) if activation == "joint" else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Identity; zero beside a skip connection."""
        with torch.no_grad():
            identity = torch.eye(*self.layer.shape[1:], dtype=self.layer.dtype, device=self.layer.device)
            self.layer.copy_(torch.zeros_like(identity) if self.skip else identity)
            if self.bias is not None:
                self.bias.zero_()

    def forward(self, x: Tensor) -> Tensor:
        return ops.hedgehog_features(x, self.layer, self.bias, self.activation, self.skip)


class HedgehogAttention(TokenMixer):
    """Linear attention with learned feature maps, see `visionattn.ops.hedgehog_features` (ICLR 2024).

    The maps start as the identity, so that features start as softmaxes of queries and keys and of their negatives.
    Train them alone first, by `distillation_loss`.

    Args:
        features: Width of a map, `head_dim` by default; there are twice as many features.
        activation: "softmax", "exp" or "joint".
        skip: Whether the input is added to its map (zero at the start then).
        tied: Whether keys use the map of the queries.
    """

    def __init__(
        self,
        *args: Any,
        features: Optional[int] = None,
        activation: str = "softmax",
        skip: bool = False,
        tied: bool = False,
        device=None,
        dtype=None,
        **kwargs: Any,
    ):
        super().__init__(*args, device=device, dtype=dtype, **kwargs)
        shape = (self.num_heads, self.head_dim, features or self.head_dim, activation, skip)
        # LoLCATs' names: feature_map_q.mlp.layer
        self.feature_map_q = nn.Sequential(OrderedDict(mlp=_HedgehogMap(*shape, device, dtype)))
        self.feature_map_k = self.feature_map_q
        if not tied:
            self.feature_map_k = nn.Sequential(OrderedDict(mlp=_HedgehogMap(*shape, device, dtype)))

    def attend(self, query: Tensor, key: Tensor, value: Tensor, size: Tuple[int, int], num_prefix: int) -> Tensor:
        return ops.hedgehog_attention(self.feature_map_q(query), self.feature_map_k(key), value)

    def distillation_loss(self, x: Tensor) -> Tensor:
        """Cross-entropy of the weights against softmax attention's for tokens `[B, N, dim]`; trains the maps alone."""
        qkv = self.qkv(x).unflatten(2, (3, self.num_heads, self.head_dim)).permute(2, 0, 3, 1, 4)
        query, key, _ = qkv.detach().unbind(0)
        query, key = self.q_norm(query).detach(), self.k_norm(key).detach()
        return ops.hedgehog_distillation_loss(query, key, self.feature_map_q(query), self.feature_map_k(key))


class _ValueConvMixer(_GridMixer):
    """A mixer with a depthwise convolution `dwc` of the values.

    Args:
        kernel_size: Odd side of the filters.
        per_channel: Whether every channel has a filter of its own; else there is one per head channel.
    """

    def __init__(
        self, *args: Any, kernel_size: int = 5, per_channel: bool = False, device=None, dtype=None, **kwargs: Any
    ):
        super().__init__(*args, device=device, dtype=dtype, **kwargs)
        if kernel_size < 1 or kernel_size % 2 == 0:
            raise ValueError(f"kernel_size must be odd, got {kernel_size}")
        width = self.head_dim * (self.num_heads if per_channel else 1)
        dd = dict(device=device, dtype=dtype)
        self.dwc = nn.Conv2d(width, width, kernel_size, padding=kernel_size // 2, groups=width, **dd)


class LiTAttention(_ValueConvMixer):
    """ReLU linear attention plus a convolution of the values, see `visionattn.ops.lit_attention` (LiT, ICCV 2025).

    Wants few heads, 2 to 4; `per_channel` chooses between the two layouts of the filters that the paper allows.
    """

    def attend(self, query: Tensor, key: Tensor, value: Tensor, size: Tuple[int, int], num_prefix: int) -> Tensor:
        return ops.lit_attention(query, key, value, self.dwc.weight, self.dwc.bias, size, num_prefix)


class FocusedLinearAttention(_ValueConvMixer):
    """Focused linear attention, see `visionattn.ops.focused_linear_attention` (FLatten, ICCV 2023).

    Its position embeddings are of one grid: `size` is required. Tokens before the grid have none.

    Args:
        power: Exponent of the features.
    """

    def __init__(self, dim: int, *args: Any, power: int = 3, device=None, dtype=None, **kwargs: Any):
        super().__init__(dim, *args, device=device, dtype=dtype, **kwargs)
        if self.size is None:
            raise ValueError("size must be the height and width of the grid, got None")
        self.power = power
        self.scale = nn.Parameter(torch.zeros(1, 1, dim, device=device, dtype=dtype))
        length = self.size[0] * self.size[1]
        self.positional_encoding = nn.Parameter(torch.zeros(1, length, dim, device=device, dtype=dtype))

    def reset_parameters(self) -> None:
        """Zero, as released: of the scale (before softplus) and of the position embeddings."""
        nn.init.zeros_(self.scale)
        nn.init.zeros_(self.positional_encoding)

    def attend(self, query: Tensor, key: Tensor, value: Tensor, size: Tuple[int, int], num_prefix: int) -> Tensor:
        length = self.positional_encoding.shape[1]
        if size[0] * size[1] != length:
            raise ValueError(f"hw must be a grid of {length} tokens, as the position embeddings, got {size}")
        position = self.positional_encoding.unflatten(2, (self.num_heads, self.head_dim)).transpose(1, 2)
        key = key + nn.functional.pad(position, (0, 0, num_prefix, 0))
        scale = nn.functional.softplus(self.scale).flatten()
        return ops.focused_linear_attention(
            query, key, value, scale, self.dwc.weight, self.dwc.bias, size, num_prefix, self.power
        )


class CircularAttention(_GridMixer):
    """Softmax attention within a disc, see `visionattn.ops.circular_attention` (CLEAR, NeurIPS 2025).

    Args:
        radius: Of the disc, in tokens.
        pool: Side of the blocks whose pooled keys every query of the grid sees, too; 0 for none. The weights,
            `spatial_weight`, start as averages.
        proportional: Whether logits get `visionattn.ops.proportional_scale`, for more tokens than trained with.
    """

    def __init__(
        self,
        *args: Any,
        radius: float = 8.0,
        pool: int = 0,
        proportional: bool = False,
        device=None,
        dtype=None,
        **kwargs: Any,
    ):
        super().__init__(*args, device=device, dtype=dtype, **kwargs)
        if radius <= 0 or pool < 0:
            raise ValueError(f"radius must be positive and pool at least 0, got {radius} and {pool}")
        self.radius, self.pool, self.proportional = radius, pool, proportional
        self.spatial_weight: Optional[nn.Parameter] = None
        if pool:
            self.spatial_weight = nn.Parameter(torch.empty(1, 1, 1, pool, 1, pool, 1, device=device, dtype=dtype))
            self.reset_parameters()

    def reset_parameters(self) -> None:
        """Averages over the blocks."""
        if self.spatial_weight is not None:
            nn.init.constant_(self.spatial_weight, self.pool**-2)

    def attend(self, query: Tensor, key: Tensor, value: Tensor, size: Tuple[int, int], num_prefix: int) -> Tensor:
        scale: Optional[float] = None
        if self.proportional:
            scale = ops.proportional_scale(query.shape[2] * (10 if self.pool else 1), self.head_dim)
        weight = None if self.spatial_weight is None else self.spatial_weight.view(self.pool, self.pool)
        return ops.circular_attention(query, key, value, self.radius, size, num_prefix, scale, weight)
