"""Attention operators as functions: checked arguments, compiled kernels where there are some, exact gradients."""

from visionattn.ops.attentive_conv import attentive_conv, attentive_kernels, band_pool
from visionattn.ops.circular_attention import circular_attention, proportional_scale
from visionattn.ops.dynamic_depthwise_conv import dynamic_depthwise_conv
from visionattn.ops.flow_attention import causal_flow_attention, flow_attention, mobile_attention
from visionattn.ops.focused_linear_attention import (
    convolve_values,
    focused_features,
    focused_linear_attention,
    lit_attention,
)
from visionattn.ops.gaussian_attention import gaussian_attention, gaussian_kernel
from visionattn.ops.hedgehog_attention import hedgehog_attention, hedgehog_distillation_loss, hedgehog_features
from visionattn.ops.layer_norm import layer_norm
from visionattn.ops.linear_attention import (
    clamped_linear_attention,
    linear_attention,
    magnitude_aware_linear_attention,
    rank_augmented_linear_attention,
)
from visionattn.ops.merge import merge_attentions
from visionattn.ops.neighborhood import na1d, na2d, na3d, na_qkv
from visionattn.ops.neighborhood_unfused import na1d_av, na1d_qk, na2d_av, na2d_qk, na3d_av, na3d_qk
from visionattn.ops.newton_inverse import newton_inverse

__all__ = [
    "attentive_conv",
    "attentive_kernels",
    "band_pool",
    "causal_flow_attention",
    "circular_attention",
    "clamped_linear_attention",
    "convolve_values",
    "dynamic_depthwise_conv",
    "flow_attention",
    "focused_features",
    "focused_linear_attention",
    "gaussian_attention",
    "gaussian_kernel",
    "hedgehog_attention",
    "hedgehog_distillation_loss",
    "hedgehog_features",
    "layer_norm",
    "linear_attention",
    "lit_attention",
    "magnitude_aware_linear_attention",
    "merge_attentions",
    "mobile_attention",
    "na1d",
    "na1d_av",
    "na1d_qk",
    "na2d",
    "na2d_av",
    "na2d_qk",
    "na3d",
    "na3d_av",
    "na3d_qk",
    "na_qkv",
    "newton_inverse",
    "proportional_scale",
    "rank_augmented_linear_attention",
]
