"""Modules that more than one backbone uses."""

from visionattn.layers.attentive_conv import AttentiveConv, AttentiveConv2d
from visionattn.layers.conv_norm import ConvNorm
from visionattn.layers.layer_norm import LayerNorm
from visionattn.layers.neighborhood_attention import (
    NeighborhoodAttention1D,
    NeighborhoodAttention2D,
    NeighborhoodAttention3D,
)
from visionattn.layers.replace_attention import replace_attention
from visionattn.layers.softmax_free_attention import SoftmaxFreeAttention
from visionattn.layers.token_head import TokenHead
from visionattn.layers.token_mixers import (
    CircularAttention,
    FlowAttention,
    FocusedLinearAttention,
    HedgehogAttention,
    LinearAttention,
    LiTAttention,
    MobileAttention,
    TokenMixer,
)

__all__ = [
    "AttentiveConv",
    "AttentiveConv2d",
    "CircularAttention",
    "ConvNorm",
    "FlowAttention",
    "FocusedLinearAttention",
    "HedgehogAttention",
    "LayerNorm",
    "LiTAttention",
    "LinearAttention",
    "MobileAttention",
    "NeighborhoodAttention1D",
    "NeighborhoodAttention2D",
    "NeighborhoodAttention3D",
    "SoftmaxFreeAttention",
    "TokenHead",
    "TokenMixer",
    "replace_attention",
]
