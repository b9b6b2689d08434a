"""Depthwise convolution with kernels of its own for every image and channel, in plain PyTorch."""

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["dynamic_depthwise_conv"]


def dynamic_depthwise_conv(value: Tensor, kernels: Tensor) -> Tensor:
    """See `visionattn.ops.dynamic_depthwise_conv`."""
    batch, channels, height, width = value.shape
    rows, columns = kernels.shape[2:]
    wide = torch.promote_types(value.dtype, torch.float32)
    x, weight = value.to(wide), kernels.to(wide)
    if torch.jit.is_scripting():
        shifted = False
    else:  # a convolution whose number of groups depends on the batch has no form in ONNX
        shifted = torch.compiler.is_exporting()
    if shifted:
        padded = F.pad(x, (columns // 2, columns // 2, rows // 2, rows // 2))
        out = torch.zeros_like(x)
        for i in range(rows):
            for j in range(columns):
                out = out + padded[:, :, i : i + height, j : j + width] * weight[:, :, i : i + 1, j : j + 1]
    elif value.numel() == 0:  # a convolution needs at least one group
        out = x * weight[:, :, :1, :1]
    else:
        groups = batch * channels
        weight = weight.reshape(groups, 1, rows, columns)
        out = F.conv2d(
            x.reshape(1, groups, height, width), weight, padding=(rows // 2, columns // 2), groups=groups
        ).view(batch, channels, height, width)
    return out.to(value.dtype)
