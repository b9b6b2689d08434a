"""Attention operators as functions: checked arguments, compiled kernels where there are some, exact gradients."""

from visionattn.ops.attentive_conv import attentive_conv, attentive_kernels, band_pool
from visionattn.ops.dynamic_depthwise_conv import dynamic_depthwise_conv
from visionattn.ops.gaussian_attention import gaussian_attention, gaussian_kernel
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
    "clamped_linear_attention",
    "dynamic_depthwise_conv",
    "gaussian_attention",
    "gaussian_kernel",
    "linear_attention",
    "magnitude_aware_linear_attention",
    "merge_attentions",
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
    "rank_augmented_linear_attention",
]
