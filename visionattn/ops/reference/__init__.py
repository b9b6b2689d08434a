"""Every operator in plain differentiable PyTorch, on any device: the definition that kernels are tested against."""

from visionattn.ops.reference.attentive_conv import attentive_kernels, band_pool
from visionattn.ops.reference.dynamic_depthwise_conv import dynamic_depthwise_conv
from visionattn.ops.reference.gaussian_attention import gaussian_attention, gaussian_kernel, squared_distance
from visionattn.ops.reference.linear_attention import (
    clamped_linear_attention,
    linear_attention,
    magnitude_aware_linear_attention,
    rank_augmented_linear_attention,
)
from visionattn.ops.reference.neighborhood import (
    neighborhood_attention,
    neighborhood_attention_qkv,
    neighborhood_av,
    neighborhood_qk,
)
from visionattn.ops.reference.newton_inverse import newton_inverse
from visionattn.ops.reference.rotary import rotary_tables, rotate

__all__ = [
    "attentive_kernels",
    "band_pool",
    "clamped_linear_attention",
    "dynamic_depthwise_conv",
    "gaussian_attention",
    "gaussian_kernel",
    "linear_attention",
    "magnitude_aware_linear_attention",
    "neighborhood_attention",
    "neighborhood_attention_qkv",
    "neighborhood_av",
    "neighborhood_qk",
    "newton_inverse",
    "rank_augmented_linear_attention",
    "rotary_tables",
    "rotate",
    "squared_distance",
]
