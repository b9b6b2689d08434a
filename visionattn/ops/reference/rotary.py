"""Rotary position encoding of a map: pairs of channels turn by angles that grow with a token's row and column.

Source: Fan et al., Breaking the Low-Rank Dilemma of Linear Attention (CVPR 2025), after Su et al., RoFormer (2021).
"""

# No `from __future__ import annotations` here: TorchScript reads the annotations.
from typing import Tuple

import torch
from torch import Tensor

__all__ = ["rotary_tables", "rotate"]


def rotary_tables(angle: Tensor, height: int, width: int) -> Tuple[Tensor, Tensor]:
    """Sine and cosine of every token's phase in every channel.

    The phase is row times angle in the first half of the channels, column times angle in the second half. All of it is
    computed in the dtype of `angle`: half precision does not tell positions apart.

    Args:
        angle: `[head_dim / 2]`, radians per row and per column.
        height: Rows of the map.
        width: Columns of the map.

    Returns:
        sin and cos, `[height * width, head_dim]`, tokens in raster order.
    """
    rows = torch.arange(height, device=angle.device, dtype=angle.dtype)[:, None] * angle
    columns = torch.arange(width, device=angle.device, dtype=angle.dtype)[:, None] * angle
    shape = (height, width, angle.shape[0])
    row_tables, column_tables = (rows.sin(), rows.cos()), (columns.sin(), columns.cos())
    sin = torch.cat((row_tables[0][:, None].expand(shape), column_tables[0].expand(shape)), dim=-1)
    cos = torch.cat((row_tables[1][:, None].expand(shape), column_tables[1].expand(shape)), dim=-1)
    return sin.flatten(0, 1), cos.flatten(0, 1)


def rotate(x: Tensor, sin: Tensor, cos: Tensor) -> Tensor:
    """Rotates neighboring channels of `x` `[..., tokens, head_dim]` by the tables `[tokens, head_dim]`."""
    pairs = x.unflatten(-1, (-1, 2))
    turned = torch.stack((-pairs[..., 1], pairs[..., 0]), dim=-1).flatten(-2)
    return x * cos + turned * sin
