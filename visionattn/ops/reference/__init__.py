"""Every operator in plain differentiable PyTorch, on any device: the definition that kernels are tested against."""

from visionattn.ops.reference.gaussian_attention import gaussian_attention, gaussian_kernel, squared_distance
from visionattn.ops.reference.neighborhood import (
    neighborhood_attention,
    neighborhood_attention_qkv,
    neighborhood_av,
    neighborhood_qk,
)
from visionattn.ops.reference.newton_inverse import newton_inverse

__all__ = [
    "gaussian_attention",
    "gaussian_kernel",
    "neighborhood_attention",
    "neighborhood_attention_qkv",
    "neighborhood_av",
    "neighborhood_qk",
    "newton_inverse",
    "squared_distance",
]
