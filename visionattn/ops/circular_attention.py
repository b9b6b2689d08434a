"""Attention within a disc around every query, as CLEAR linearises pretrained transformers with."""

from __future__ import annotations

import math
from typing import Optional, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from visionattn.ops import _arguments as check
from visionattn.ops import _operators, reference
from visionattn.ops._triton import TritonOperator
from visionattn.ops.focused_linear_attention import check_grid
from visionattn.ops.linear_attention import checked_tokens

__all__ = ["circular_attention", "proportional_scale"]

_TILE = 8  # tiles of queries are multiples of it


def circular_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    radius: float,
    size: Sequence[int],
    num_prefix: int = 0,
    scale: Optional[float] = None,
    pool_weight: Optional[Tensor] = None,
    *,
    backend: str = "auto",
) -> Tensor:
    """Softmax attention of a grid of tokens in which a query sees the keys less than `radius` away.

    Discs are cut at the border, so queries there see fewer keys. Tokens before the grid (class token, registers, text)
    see all tokens and are seen by all.

    Args:
        query: `[batch, heads, num_prefix + height * width, head_dim]`, any floating dtype and strides.
        key: Like `query`.
        value: Like `query`.
        radius: Positive; 1 sees the query's own position, 8 sees 193.
        size: Height and width of the grid.
        num_prefix: Tokens before those of the grid.
        scale: Factor on the logits; None means `head_dim ** -0.5`, see also `proportional_scale`.
        pool_weight: `[f, f]`, any floating dtype: queries of the grid also see the weighted sums of keys over blocks of
            f x f positions, with values summed alike; `height` and `width` must be multiples of f.
        backend: `"auto"`: Triton kernels on CUDA for head dims up to 128 (float32: 64), else plain PyTorch over tiles
            with their surroundings; `"reference"`: plain PyTorch, a dense mask; `"triton"`: the kernels or an error.

    Returns:
        Shape and dtype of `query`.

    Raises:
        TypeError: an argument of the wrong type or dtype.
        ValueError: shapes, devices or values that do not fit; the message names the argument.
        NotImplementedError: `backend="triton"` where the kernels can't serve; the message says why.

    Source: CLEAR: Conv-Like Linearization Revs Pre-Trained Diffusion Transformers Up (Liu et al., NeurIPS 2025,
    arXiv:2412.16112), section 3.2, and its released code.
    """
    query, key, value = checked_tokens(query, key, value, self_attention=True)
    check.check_shape("value", value, list(query.shape), "[batch, heads, tokens, head_dim]")
    height, width = check_grid(query, size, num_prefix)
    if isinstance(radius, bool) or not radius > 0:
        raise ValueError(f"radius must be positive, got {radius!r}")
    scale = float(scale or query.shape[-1] ** -0.5)
    with _operators.without_autocast(query.device.type):
        (q0, q), (k0, k), (v0, v) = (x.tensor_split([num_prefix], dim=2) for x in (query, key, value))
        extra = [(k0, v0)] if num_prefix else []
        if pool_weight is not None:
            # Keys and values at once, so that the weight's gradient is rounded once.
            pooled = _pool(torch.cat([k, v], dim=-1), pool_weight, height, width)
            extra.append(pooled.tensor_split(2, dim=-1))
        extra_key, extra_value = (torch.cat(x, dim=2) for x in zip(*extra)) if extra else (None, None)
        out = _OPERATOR(backend, q, k, v, extra_key, extra_value, height, width, float(radius), scale)
        if num_prefix:
            out = torch.cat([F.scaled_dot_product_attention(q0, key, value, scale=scale), out], dim=2)
    return out


def proportional_scale(tokens: int, head_dim: int, trained_tokens: int = 4608) -> float:
    """`sqrt(log(tokens) / log(trained_tokens) / head_dim)`, the factor on logits beyond the resolution of training.

    Source: CLEAR's released code; 4608 tokens are FLUX's at 1024 x 1024 pixels. With pooled keys it takes ten times
    the number of tokens.
    """
    return math.sqrt(math.log(tokens) / math.log(trained_tokens) / head_dim)


def _pool(x: Tensor, weight: Tensor, height: int, width: int) -> Tensor:
    """Weighted sums of `[batch, heads, height * width, d]` over blocks of the weight's size."""
    check.check_tensor("pool_weight", weight, 2)
    rows, columns = weight.shape
    if rows < 1 or columns < 1 or height % rows or width % columns:
        raise ValueError(f"pool_weight must divide the grid of {height} x {width}, got {list(weight.shape)}")
    blocks = x.unflatten(2, (height // rows, rows, width // columns, columns))
    return torch.einsum("bhiajcd,ac->bhijd", blocks, weight.to(x.dtype)).flatten(2, 3)


def blockwise(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    extra_key: Optional[Tensor],
    extra_value: Optional[Tensor],
    height: int,
    width: int,
    radius: float,
    scale: float,
) -> Tensor:
    """What `reference.circular_attention` is, by square tiles of queries with their surroundings as keys."""
    reach = math.ceil(radius) - 1
    tile = _TILE * max(1, math.ceil(reach / _TILE))
    span = tile + 2 * reach
    if height * width <= span * span:
        return reference.circular_attention(query, key, value, extra_key, extra_value, height, width, radius, scale)
    batch, heads, _, dim = query.shape
    rows, columns = -(-height // tile), -(-width // tile)
    padding = [0, 0, reach, reach + columns * tile - width, reach, reach + rows * tile - height]

    def as_map(x: Tensor, padding: list[int]) -> Tensor:
        return F.pad(x.reshape(batch * heads, height, width, dim), padding)

    queries = as_map(query, [0, 0, 0, columns * tile - width, 0, rows * tile - height])
    keys, values = as_map(key, padding), as_map(value, padding)
    inner = torch.arange(tile, device=query.device) + reach
    outer = torch.arange(span, device=query.device)
    apart = (inner[:, None] - outer).square()
    disc = (apart[:, None, :, None] + apart[None, :, None, :] < radius * radius).reshape(tile * tile, span * span)
    column = torch.arange(columns, device=query.device)[:, None] * tile + outer - reach
    out = []
    for row in range(rows):
        vertical = outer + (row * tile - reach)
        valid = ((vertical >= 0) & (vertical < height))[:, None] & ((column >= 0) & (column < width))[:, None, :]
        mask = disc & valid.reshape(columns, 1, span * span)
        mask = mask | ~mask.any(-1, keepdim=True)  # queries of the padding, whose result is cut off
        q = queries[:, row * tile : (row + 1) * tile].unflatten(2, (columns, tile)).transpose(1, 2).flatten(2, 3)
        k, v = (
            x[:, row * tile : row * tile + span].unfold(2, span, tile).permute(0, 2, 1, 4, 3).flatten(2, 3)
            for x in (keys, values)
        )
        if extra_key is not None:
            k, v = (
                torch.cat([x, extra.flatten(0, 1)[:, None].expand(-1, columns, -1, -1)], dim=2)
                for x, extra in ((k, extra_key), (v, extra_value))
            )
            mask = F.pad(mask, [0, extra_key.shape[2]], value=True)
        slab = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale)
        out.append(slab.unflatten(2, (tile, tile)).transpose(1, 2).flatten(2, 3))
    return torch.cat(out, dim=1)[:, :height, :width].reshape(query.shape)


def _limits(query: Tensor, *rest: object) -> Optional[str]:
    widest = 64 if query.dtype == torch.float32 else 128  # parts of float32 take three times the room
    return f"head_dim is {query.shape[-1]}, above {widest}" if query.shape[-1] > widest else None


def _fake(query: Tensor, *rest: object) -> tuple[Tensor, Tensor]:
    return query.new_empty(query.shape), query.new_empty(query.shape[:3], dtype=torch.float32)


_OPERATOR = TritonOperator(
    "circular_attention",
    "Tensor query, Tensor key, Tensor value, Tensor? extra_key, Tensor? extra_value, SymInt height, SymInt width, "
    "float radius, float scale",
    _fake,
    1,
    _limits,
    plain=blockwise,
    saves_output=True,
)
