"""Linear attentions in plain PyTorch: a feature map, keys times values summed over tokens, a normalisation.

All of it is computed in float32 (float64 for float64) whatever the inputs: sums over tokens overflow float16, and the
small constants vanish beside ones in bfloat16. `wide=False` computes in the inputs' dtype all the same, as plain code
would: a yardstick for speed. Sources with each function.
"""

# No `from __future__ import annotations` here: TorchScript reads the annotations.
from typing import Optional, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor

from visionattn.ops.reference.rotary import rotary_tables, rotate

__all__ = [
    "clamped_linear_attention",
    "linear_attention",
    "magnitude_aware_linear_attention",
    "rank_augmented_linear_attention",
]


def _wide(x: Tensor, wide: bool = True) -> Tensor:
    return x.float() if wide and x.dtype != torch.float64 else x


def _features(x: Tensor, feature_map: str) -> Tensor:
    if feature_map == "elu":  # elu(x) + 1, without the rounding of a small exponential beside the one
        return x.clamp(max=0).exp() + F.relu(x)
    return F.relu(x) if feature_map == "relu" else x


def _rotated(a: Tensor, b: Tensor, angle: Tensor, height: int, width: int) -> Tuple[Tensor, Tensor]:
    sin, cos = rotary_tables(_wide(angle), height, width)
    sin, cos = sin.to(a.dtype), cos.to(a.dtype)
    return rotate(a, sin, cos), rotate(b, sin, cos)


def linear_attention(
    query: Tensor, key: Tensor, value: Tensor, feature_map: str, eps: float, wide: bool = True
) -> Tensor:
    """`phi(q) (sum phi(k)^T v) / (phi(q) sum phi(k) + eps)`.

    Source: Katharopoulos et al., Transformers are RNNs (ICML 2020), eqs. 4-7.
    """
    a, b, v = _features(_wide(query, wide), feature_map), _features(_wide(key, wide), feature_map), _wide(value, wide)
    normalizer = a @ b.sum(-2).unsqueeze(-1)
    return (a @ (b.transpose(-1, -2) @ v) / (normalizer + eps)).to(query.dtype)


def clamped_linear_attention(
    query: Tensor, key: Tensor, value: Tensor, scale: Tensor, minimum: float, wide: bool = True
) -> Tensor:
    """`scale relu(q) (sum relu(k)^T v) / max(relu(q) sum relu(k), minimum)`.

    Source: The Linear Attention Resurrection in Vision Transformer (arXiv:2501.16182), and its code for the clamp.
    """
    a, b, v = F.relu(_wide(query, wide)), F.relu(_wide(key, wide)), _wide(value, wide)
    normalizer = a @ b.sum(-2).unsqueeze(-1)
    state = (b.transpose(-1, -2) @ v) * _wide(scale).to(v.dtype)[:, None, None]
    return (a @ state / normalizer.clamp(min=minimum)).to(query.dtype)


def rank_augmented_linear_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    angle: Optional[Tensor],
    height: int,
    width: int,
    eps: float,
    wide: bool = True,
) -> Tensor:
    """Linear attention whose keys are weighted by a softmax of their affinity to the mean query.

    Source: Fan et al., Breaking the Low-Rank Dilemma of Linear Attention (CVPR 2025), and its code for the normaliser,
    which sees queries and keys that are not rotated.
    """
    a, b, v = _features(_wide(query, wide), "elu"), _features(_wide(key, wide), "elu"), _wide(value, wide)
    affinity = b @ a.mean(-2).unsqueeze(-1)
    b = b * torch.softmax(affinity * query.shape[-1] ** -0.5, dim=-2)
    normalizer = a @ b.sum(-2).unsqueeze(-1)
    if angle is not None:
        a, b = _rotated(a, b, angle, height, width)
    return (a @ (b.transpose(-1, -2) @ v) / (normalizer + eps)).to(query.dtype)


def magnitude_aware_linear_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    angle: Optional[Tensor],
    height: int,
    width: int,
    eps: float,
    wide: bool = True,
) -> Tensor:
    """Linear attention that is normalised by a factor and a difference, so that long queries attend sharply.

    Source: Fan et al., Rectifying Magnitude Neglect in Linear Attention (ICCV 2025), and its code for the rotation,
    which the normalisation does not see.
    """
    a, b, v = _features(_wide(query, wide), "elu"), _features(_wide(key, wide), "elu"), _wide(value, wide)
    scale = query.shape[-1] ** -0.5
    score = (a @ b.mean(-2).unsqueeze(-1)) * scale
    if angle is not None:
        a, b = _rotated(a, b, angle, height, width)
    state = (b.transpose(-1, -2) @ v) * (scale / query.shape[-2])
    return ((1 + 1 / (score + eps)) * (a @ state) - score * v.mean(-2, keepdim=True)).to(query.dtype)
