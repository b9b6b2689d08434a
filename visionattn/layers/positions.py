"""Learned position embeddings on maps of any size."""

import torch
import torch.nn.functional as F
from timm.layers import register_notrace_function
from torch import Tensor

__all__ = ["resize_positions"]


@register_notrace_function  # compares sizes, which a symbolic trace can't
def resize_positions(table: Tensor, grid_height: int, grid_width: int, height: int, width: int, mode: str) -> Tensor:
    """Position embeddings as a map, resized where the map has another size.

    Args:
        table: `[1, grid_height * grid_width, C]`, in raster order.
        grid_height: Rows that the table is made for.
        grid_width: Columns that the table is made for.
        height: Rows of the map.
        width: Columns of the map.
        mode: "bilinear", or "bicubic" with antialiasing as timm resizes its tables.

    Returns:
        `[1, height, width, C]` in the dtype of `table`.
    """
    table = table.unflatten(1, [grid_height, grid_width])
    if height == grid_height and width == grid_width:
        return table
    wide = table.permute(0, 3, 1, 2)
    wide = wide if wide.dtype == torch.float64 else wide.float()
    wide = F.interpolate(wide, [height, width], mode=mode, align_corners=False, antialias=mode == "bicubic")
    return wide.permute(0, 2, 3, 1).to(table.dtype)
