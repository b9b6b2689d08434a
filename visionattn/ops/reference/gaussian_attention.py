"""Softmax-free attention through landmarks: a Nystrom factorization of the Gaussian kernel between tokens.

Sources: SOFT (Lu et al., NeurIPS 2021, arXiv:2110.11945) and Softmax-free Linear Transformers (Lu et al., IJCV 2024,
arXiv:2207.03341).
"""

import torch
from torch import Tensor

from visionattn.ops.reference.newton_inverse import newton_inverse


def squared_distance(query: Tensor, key: Tensor) -> Tensor:
    """`[..., N, d]`, `[..., M, d]` to `[..., N, M]`, by the products of both; rounding may leave it below zero."""
    squares = query.square().sum(-1).unsqueeze(-1) + key.square().sum(-1).unsqueeze(-2)
    return squares - 2 * query @ key.transpose(-2, -1)


def gaussian_kernel(query: Tensor, key: Tensor) -> Tensor:
    """The definition of `visionattn.ops.gaussian_kernel`; half precision is computed in float32."""
    compute = torch.promote_types(query.dtype, torch.float32)
    return torch.exp(-0.5 * squared_distance(query.to(compute), key.to(compute))).to(query.dtype)


def gaussian_attention(
    query: Tensor, landmarks: Tensor, value: Tensor, method: str, max_iter: int, normalize: bool
) -> Tensor:
    """The definition of `visionattn.ops.gaussian_attention`; half precision is computed in float32."""
    compute = torch.promote_types(query.dtype, torch.float32)
    landmarks = landmarks.to(compute)
    kernel = gaussian_kernel(query.to(compute), landmarks)
    inverse = newton_inverse(gaussian_kernel(landmarks, landmarks), method, max_iter, normalize)
    # The papers' (kernel inverse) (kernel^T value) takes m / d times the work.
    return (kernel @ (inverse @ (kernel.transpose(-2, -1) @ value.to(compute)))).to(query.dtype)
