"""Tiles of feature maps: positions in raster order times channels, for kernels that serve every memory layout."""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
from torch import Tensor

from visionattn.ops.dynamic_depthwise_conv import empty_like_map, has_dense_rows

__all__ = ["Tile", "dense_rows", "map_strides", "tile_for", "write_like"]


class Tile(NamedTuple):
    """Positions and channels that one program works on; powers of two."""

    positions: int
    channels: int


def dense_rows(x: Tensor) -> Tensor:
    """`x`, or a copy of it, with positions equally far apart in raster order."""
    return x if has_dense_rows(x) else x.contiguous()


def map_strides(x: Tensor) -> tuple[int, int, int]:
    """Strides of the batch, of the channels and from a position to the next, of a map with dense rows."""
    return x.stride(0), x.stride(1), x.stride(2) if x.shape[3] == 1 else x.stride(3)


def tile_for(x: Tensor, positions: int, size: int, most_channels: int = 64) -> Tile:
    """A tile of `size` numbers that reads `x` along its fastest axis.

    Args:
        x: The map.
        positions: How many positions a program could use.
        size: Numbers in a tile.
        most_channels: Limit on the channels where these are the fastest axis.
    """
    positions, channels = triton.next_power_of_2(positions), triton.next_power_of_2(x.shape[1])
    if x.stride(1) == 1 and x.shape[1] > 1:
        channels = min(channels, most_channels)
        return Tile(min(positions, size // channels), channels)
    positions = min(positions, size)
    return Tile(positions, min(channels, size // positions))


def write_like(x: Tensor, write) -> Tensor:
    """A new tensor of the strides that `torch.empty_like` gives, filled by `write(map with dense rows)`."""
    out = torch.empty_like(x)
    target = out if has_dense_rows(out) else empty_like_map(out)
    write(target)
    return out if target is out else out.copy_(target)
