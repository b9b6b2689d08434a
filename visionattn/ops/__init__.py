"""Attention operators as functions: checked arguments, compiled kernels where there are some, exact gradients."""

from visionattn.ops.merge import merge_attentions
from visionattn.ops.neighborhood import na1d, na2d, na3d, na_qkv
from visionattn.ops.neighborhood_unfused import na1d_av, na1d_qk, na2d_av, na2d_qk, na3d_av, na3d_qk

__all__ = [
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
]
