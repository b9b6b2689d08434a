"""Hedgehog's learned feature maps in plain PyTorch, computed in float32 (float64 for float64).

Sources: The Hedgehog & the Porcupine (Zhang et al., ICLR 2024, arXiv:2402.04347), and its code within LoLCATs.
"""

# No `from __future__ import annotations` here: TorchScript reads the annotations.
from typing import Optional

import torch
from torch import Tensor


def hedgehog_features(
    x: Tensor, weight: Tensor, bias: Optional[Tensor], activation: str, skip: bool, two_sided: bool
) -> Tensor:
    """The definition of `visionattn.ops.hedgehog_features`."""
    wide = x if x.dtype == torch.float64 else x.float()
    y = wide @ weight.to(wide.dtype)
    if bias is not None:
        y = y + bias.to(wide.dtype).unsqueeze(-2)
    if skip:
        y = y + wide
    if activation == "joint":
        return torch.softmax(torch.cat([2 * y, -2 * y], dim=-1), dim=-1)
    if activation == "softmax":
        sides = [torch.softmax(y, dim=-1), torch.softmax(-y, dim=-1)]
    else:
        sides = [(y - y.amax(-1, keepdim=True)).exp(), (y.amin(-1, keepdim=True) - y).exp()]
    features = torch.cat(sides, dim=-1) if two_sided else sides[0]
    return features.clamp(min=1e-12)
