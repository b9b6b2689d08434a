"""NATTEN's lists of tile shapes per backend. Tiles tune its kernels, not ours: the lists let searches over them run.

Each list holds what NATTEN's CUTLASS and FlexAttention backends take; those of the Hopper and Blackwell backends are
empty, as NATTEN answers for tensors that a backend can't serve.
"""

from __future__ import annotations

from itertools import product
from typing import Callable

import torch
from torch import Tensor

__all__ = [
    "get_bwd_configs_for_cutlass_blackwell_fmha",
    "get_bwd_configs_for_cutlass_blackwell_fna",
    "get_bwd_configs_for_cutlass_fmha",
    "get_bwd_configs_for_cutlass_fna",
    "get_bwd_configs_for_cutlass_hopper_fmha",
    "get_bwd_configs_for_cutlass_hopper_fna",
    "get_configs_for_cutlass_blackwell_fmha",
    "get_configs_for_cutlass_blackwell_fna",
    "get_configs_for_cutlass_fmha",
    "get_configs_for_cutlass_fna",
    "get_configs_for_cutlass_hopper_fmha",
    "get_configs_for_cutlass_hopper_fna",
    "get_configs_for_flex_fmha",
    "get_configs_for_flex_fna",
]

Tile = tuple[int, ...]

# Compute capabilities on which NATTEN's CUTLASS backward has tiles of 128 queries.
_LARGE_TILES = ((8, 0), (9, 0), (10, 0), (10, 3))


def _tiles(tokens: int, rank: int) -> list[Tile]:
    """All shapes of `rank` axes, powers of two from 2 up, that hold `tokens` tokens (a power of two)."""
    if rank == 1:
        return [(tokens,)]
    sides = (2**i for i in range(1, tokens.bit_length()))
    return [(side, *rest) for side in sides for rest in _tiles(tokens // side, rank - 1) if min(rest) > 1]


def _fits_forward(q_tile: Tile, kv_tile: Tile) -> bool:
    return all(kv % q == 0 for q, kv in zip(q_tile, kv_tile))


def _cutlass_forward(rank: int, query: Tensor) -> list[tuple[Tile, Tile]]:
    pairs = [pair for q, kv in ((64, 64), (64, 128), (32, 128)) for pair in product(_tiles(q, rank), _tiles(kv, rank))]
    return [pair for pair in pairs if _fits_forward(*pair)]


def _cutlass_backward(rank: int, query: Tensor) -> list[tuple[Tile, Tile]]:
    sizes = [(64, 64)]
    if query.is_cuda and torch.cuda.get_device_capability(query.device) in _LARGE_TILES:
        sizes += [(128, 64), (128, 128)]
    return [pair for q, kv in sizes for pair in product(_tiles(q, rank), _tiles(kv, rank))]


def _flex(rank: int, query: Tensor) -> list[tuple[Tile, Tile]]:
    default = {1: (64,), 2: (8, 8), 3: (4, 4, 4)}[rank]
    return [(default, default)]


def _nothing(rank: int, query: Tensor) -> list[tuple[Tile, Tile]]:
    return []


def _query(
    name: str, pairs: Callable[[int, Tensor], list[tuple[Tile, Tile]]]
) -> Callable[[Tensor, Tensor, Tensor], list]:
    flat = name.endswith("fmha")

    def get(query: Tensor, key: Tensor, value: Tensor) -> list:
        rank = query.dim() - 3
        if (flat and rank != 1) or not 1 <= rank <= 3:
            axes = "[batch, tokens, heads, head_dim]" if flat else "[batch, *spatial, heads, head_dim]"
            raise ValueError(f"query must have shape {axes}, got {list(query.shape)}")
        found = pairs(rank, query)
        return [(q, kv) for ((q,), (kv,)) in found] if flat else found

    get.__name__ = get.__qualname__ = name
    get.__doc__ = f"""Pairs of query tile and key/value tile; `{name}(query, key, value)` of NATTEN 0.21.

    Raises:
        ValueError: `query` has another number of axes.
    """
    return get


get_configs_for_cutlass_fna = _query("get_configs_for_cutlass_fna", _cutlass_forward)
get_bwd_configs_for_cutlass_fna = _query("get_bwd_configs_for_cutlass_fna", _cutlass_backward)
get_configs_for_cutlass_fmha = _query("get_configs_for_cutlass_fmha", _cutlass_forward)
get_bwd_configs_for_cutlass_fmha = _query("get_bwd_configs_for_cutlass_fmha", _cutlass_backward)
get_configs_for_cutlass_hopper_fna = _query("get_configs_for_cutlass_hopper_fna", _nothing)
get_bwd_configs_for_cutlass_hopper_fna = _query("get_bwd_configs_for_cutlass_hopper_fna", _nothing)
get_configs_for_cutlass_hopper_fmha = _query("get_configs_for_cutlass_hopper_fmha", _nothing)
get_bwd_configs_for_cutlass_hopper_fmha = _query("get_bwd_configs_for_cutlass_hopper_fmha", _nothing)
get_configs_for_cutlass_blackwell_fna = _query("get_configs_for_cutlass_blackwell_fna", _nothing)
get_bwd_configs_for_cutlass_blackwell_fna = _query("get_bwd_configs_for_cutlass_blackwell_fna", _nothing)
get_configs_for_cutlass_blackwell_fmha = _query("get_configs_for_cutlass_blackwell_fmha", _nothing)
get_bwd_configs_for_cutlass_blackwell_fmha = _query("get_bwd_configs_for_cutlass_blackwell_fmha", _nothing)
get_configs_for_flex_fna = _query("get_configs_for_flex_fna", _flex)
get_configs_for_flex_fmha = _query("get_configs_for_flex_fmha", _flex)
