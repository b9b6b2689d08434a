"""Every operator in plain differentiable PyTorch, on any device: the definition that kernels are tested against."""

from visionattn.ops.reference.neighborhood import (
    neighborhood_attention,
    neighborhood_attention_qkv,
    neighborhood_av,
    neighborhood_qk,
)

__all__ = ["neighborhood_attention", "neighborhood_attention_qkv", "neighborhood_av", "neighborhood_qk"]
