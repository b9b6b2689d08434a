"""Every operator in plain differentiable PyTorch, on any device: the definition that kernels are tested against."""

from visionattn.ops.reference.attentive_conv import attentive_kernels, band_pool
from visionattn.ops.reference.circular_attention import circular_attention, disc_mask
from visionattn.ops.reference.dynamic_depthwise_conv import dynamic_depthwise_conv
from visionattn.ops.reference.flow_attention import causal_flow_attention, flow_attention, mobile_attention
from visionattn.ops.reference.focused_linear_attention import convolve_values, focused_features
from visionattn.ops.reference.gaussian_attention import gaussian_attention, gaussian_kernel, squared_distance
from visionattn.ops.reference.hedgehog_attention import hedgehog_features
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
    "causal_flow_attention",
    "circular_attention",
    "clamped_linear_attention",
    "convolve_values",
    "disc_mask",
    "dynamic_depthwise_conv",
    "flow_attention",
    "focused_features",
    "gaussian_attention",
    "gaussian_kernel",
    "hedgehog_features",
    "linear_attention",
    "magnitude_aware_linear_attention",
    "mobile_attention",
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
