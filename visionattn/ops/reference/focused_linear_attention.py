"""Focused features and the convolution of values in plain PyTorch.

Source: FLatten Transformer (Han et al., ICCV 2023, arXiv:2308.00442), and its released code.
"""

# No `from __future__ import annotations` here: TorchScript reads the annotations.
from typing import Optional

import torch
import torch.nn.functional as F
from torch import Tensor


def focused_features(x: Tensor, scale: Tensor, power: int) -> Tensor:
    """The definition of `visionattn.ops.focused_features`."""
    wide = x if x.dtype == torch.float64 else x.float()
    heads, dim = x.shape[1], x.shape[3]
    f = (F.relu(wide) + 1e-6) / scale.to(wide.dtype).reshape(heads, 1, dim)
    sharp = f**power
    length = f.square().sum([1, 3], keepdim=True).sqrt()
    return sharp * (length / sharp.square().sum([1, 3], keepdim=True).sqrt())


def convolve_values(
    value: Tensor, weight: Tensor, bias: Optional[Tensor], height: int, width: int, num_prefix: int
) -> Tensor:
    """The definition of `visionattn.ops.convolve_values`."""
    batch, heads, _, dim = value.shape
    grid = value[:, :, num_prefix:].transpose(2, 3)  # [B, heads, d, N]
    if weight.shape[0] == dim:  # the heads share the filters
        grid = grid.reshape(batch * heads, dim, height, width)
    else:
        grid = grid.reshape(batch, heads * dim, height, width)
    out = F.conv2d(grid, weight, bias, padding=weight.shape[-1] // 2, groups=weight.shape[0])
    out = out.reshape(batch, heads, dim, height * width).transpose(2, 3)
    return F.pad(out, [0, 0, num_prefix, 0])
