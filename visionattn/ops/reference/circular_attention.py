"""CLEAR's attention within a disc in plain PyTorch, over a dense mask.

Source: CLEAR: Conv-Like Linearization Revs Pre-Trained Diffusion Transformers Up (Liu et al., NeurIPS 2025,
arXiv:2412.16112), and its released code.
"""

# No `from __future__ import annotations` here: TorchScript reads the annotations.
import math
from typing import Optional

import torch
from torch import Tensor


def disc_mask(height: int, width: int, radius: float, device: torch.device) -> Tensor:
    """`[N, N]`, whether two positions of a grid in raster order are less than `radius` apart."""
    position = torch.arange(height * width, device=device)
    row = torch.div(position, width, rounding_mode="floor")
    column = position - row * width
    return (row[:, None] - row).square() + (column[:, None] - column).square() < radius * radius


def circular_attention(
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
    """Attention of a grid `[B, heads, height * width, d]` within discs, and of every query to the extra keys."""
    compute = torch.promote_types(query.dtype, torch.float32)
    q, k, v = query.to(compute) * scale, key.to(compute), value.to(compute)
    mask = disc_mask(height, width, radius, query.device)
    logits = (q @ k.transpose(-2, -1)).masked_fill(~mask, -math.inf)
    if extra_key is not None and extra_value is not None:
        logits = torch.cat([logits, q @ extra_key.to(compute).transpose(-2, -1)], dim=-1)
        v = torch.cat([v, extra_value.to(compute)], dim=-2)
    return (torch.softmax(logits, dim=-1) @ v).to(query.dtype)
