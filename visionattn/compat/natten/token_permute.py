"""Token permutation: the layout in which tiles of a map, and its dilation groups, are contiguous.

visionattn's kernels read strided tensors and need no such copy; this serves code that works on the permuted layout.
"""

from __future__ import annotations

from math import prod
from typing import Optional, Sequence, Union

import torch.nn.functional as F
from torch import Tensor

from visionattn.ops._arguments import per_axis

__all__ = ["token_permute", "token_unpermute"]

Ints = Union[int, Sequence[int]]


def _order(rank: int, flip: bool) -> list[int]:
    """Axes of `[batch, (rest, tile, dilation) per axis, heads, head_dim]` in permuted order."""
    rest, tile, group = (list(range(first, 3 * rank + 1, 3)) for first in (1, 2, 3))
    if flip:
        rest.reverse()
        tile.reverse()
    return [0, *group, *rest, *tile, 3 * rank + 1, 3 * rank + 2]


def _layout(
    spatial: Sequence[int], tile_shape: Ints, dilation: Optional[Ints]
) -> tuple[list[int], list[int], list[int]]:
    """Number of tiles per dilation group, tile and dilation, per axis."""
    tile = per_axis("tile_shape", tile_shape, len(spatial), int)
    gap = per_axis("dilation", dilation, len(spatial), int, 1)
    if min(tile) < 1 or min(gap) < 1:
        raise ValueError(f"tile_shape and dilation must be at least 1, got {tile_shape!r} and {dilation!r}")
    return [-(-length // (t * d)) for length, t, d in zip(spatial, tile, gap)], tile, gap


def token_permute(
    tensor: Tensor, tile_shape: Ints, dilation: Optional[Ints] = 1, flip_tiled_dims: bool = False
) -> Tensor:
    """Pads a map with zeros to whole tiles and lays it out tile by tile, dilation groups in the batch.

    Args:
        tensor: `[batch, *spatial, heads, head_dim]` with 1 to 3 spatial axes.
        tile_shape: Tile size per axis.
        dilation: Per axis; positions equal modulo it form a group.
        flip_tiled_dims: Order tiles, and positions in a tile, with the last spatial axis outermost.

    Returns:
        `[batch * prod(dilation), tokens, heads, head_dim]`, batch outermost; tokens count the padding.

    Raises:
        TypeError, ValueError: a wrong argument; the message names it.
    """
    rank = tensor.dim() - 3
    if not 1 <= rank <= 3:
        raise ValueError(f"tensor must have shape [batch, *spatial, heads, head_dim], got {list(tensor.shape)}")
    batch, *spatial, heads, dim = tensor.shape
    rest, tile, gap = _layout(spatial, tile_shape, dilation)
    padding = [0, 0, 0, 0]
    for r, t, d, length in reversed(list(zip(rest, tile, gap, spatial))):
        padding += [0, r * t * d - length]
    split = F.pad(tensor, padding).reshape(batch, *(n for axis in zip(rest, tile, gap) for n in axis), heads, dim)
    tokens = prod(rest) * prod(tile)
    return split.permute(_order(rank, flip_tiled_dims)).reshape(batch * prod(gap), tokens, heads, dim)


def token_unpermute(
    tensor: Tensor,
    token_layout_shape: Sequence[int],
    tile_shape: Ints,
    dilation: Optional[Ints] = 1,
    flip_tiled_dims: bool = False,
) -> Tensor:
    """Undoes `token_permute` and drops the padding.

    Args:
        tensor: `[batch * prod(dilation), tokens, heads, head_dim]`.
        token_layout_shape: The map's spatial shape.
        tile_shape: As given to `token_permute`.
        dilation: As given to `token_permute`.
        flip_tiled_dims: As given to `token_permute`.

    Returns:
        `[batch, *token_layout_shape, heads, head_dim]`.

    Raises:
        TypeError, ValueError: a wrong argument; the message names it.
    """
    rank = len(token_layout_shape)
    rest, tile, gap = _layout(token_layout_shape, tile_shape, dilation)
    groups, tokens = prod(gap), prod(rest) * prod(tile)
    if tensor.dim() != 4 or tensor.shape[1] != tokens or tensor.shape[0] % groups:
        raise ValueError(
            f"tensor must have shape [batch * {groups}, {tokens}, heads, head_dim] for this layout, "
            f"got {list(tensor.shape)}"
        )
    heads, dim = tensor.shape[2:]
    order = _order(rank, flip_tiled_dims)
    sizes = [tensor.shape[0] // groups, *(n for axis in zip(rest, tile, gap) for n in axis), heads, dim]
    split = tensor.reshape([sizes[axis] for axis in order])
    inverse = sorted(range(len(order)), key=order.__getitem__)
    padded = split.permute(inverse).reshape(sizes[0], *(r * t * d for r, t, d in zip(rest, tile, gap)), heads, dim)
    return padded[(slice(None), *(slice(length) for length in token_layout_shape))]
