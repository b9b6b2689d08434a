"""Feature pyramids that mmdet and mmseg have not."""

from __future__ import annotations

from typing import List, Sequence, Tuple

import torch.nn.functional as F
from mmengine.registry import MODELS
from torch import Tensor, nn

__all__ = ["FinerFPN"]


@MODELS.register_module()
class FinerFPN(nn.Module):
    """FPN for backbones that start at stride 8: a transposed convolution adds the level of stride 4.

    Top-down additions as in FPN (Lin et al. 2017, section 3); the finest merged map, upsampled twofold by a learnt
    transposed convolution, is one level more, the coarsest max-pooled another: LightViT's neck (Huang et al. 2022),
    which DualToken-ViT's detectors follow.

    Args:
        in_channels: Channels of the backbone's maps, finest first.
        out_channels: Channels of every level.

    Shapes:
        Maps `[B, in_channels[i], H / 2**i, W / 2**i]` to levels `[B, out_channels, 2 H / 2**i, 2 W / 2**i]`, two more.
    """

    def __init__(self, in_channels: Sequence[int], out_channels: int):
        super().__init__()
        self.laterals = nn.ModuleList(nn.Conv2d(channels, out_channels, 1) for channels in in_channels)
        self.finer = nn.ConvTranspose2d(out_channels, out_channels, 2, stride=2)
        self.outputs = nn.ModuleList(
            nn.Conv2d(out_channels, out_channels, 3, padding=1) for _ in range(len(in_channels) + 1)
        )
        for module in self.modules():
            if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)

    def forward(self, maps: Sequence[Tensor]) -> Tuple[Tensor, ...]:
        merged: List[Tensor] = []
        for lateral, feature in reversed(list(zip(self.laterals, maps))):
            feature = lateral(feature)
            if merged:
                feature = feature + F.interpolate(merged[0], size=feature.shape[-2:], mode="nearest")
            merged.insert(0, feature)
        merged.insert(0, self.finer(merged[0]))
        levels = [output(feature) for output, feature in zip(self.outputs, merged)]
        return (*levels, F.max_pool2d(levels[-1], 1, stride=2))
