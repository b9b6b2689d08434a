"""Attentive convolution: depthwise kernels made of what an image shows, in plain PyTorch."""

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["attentive_kernels", "band_pool"]


def band_pool(x: Tensor, bands: int) -> Tensor:
    """See `visionattn.ops.band_pool`."""
    wide = torch.promote_types(x.dtype, torch.float32)
    tokens = x.flatten(2).to(wide)
    if torch.jit.is_scripting():
        as_product = False
    else:  # ONNX's form of adaptive pooling is wrong for lengths that are not known beforehand
        as_product = torch.compiler.is_exporting()
    if not as_product:
        return F.adaptive_avg_pool1d(tokens, bands).to(x.dtype)
    length = tokens.shape[2]
    band, position = torch.arange(bands, device=x.device), torch.arange(length, device=x.device)
    start, end = band * length // bands, (band * length + length + bands - 1) // bands
    member = (position[:, None] >= start) & (position[:, None] < end)
    return (tokens @ member.to(wide) / (end - start)).to(x.dtype)


def attentive_kernels(context: Tensor, weight: Tensor, bias: Tensor, difference: Tensor, activation: str) -> Tensor:
    """See `visionattn.ops.attentive_kernels`."""
    wide = torch.promote_types(context.dtype, torch.float32)
    x = context.to(wide)
    if activation == "gelu":
        x = F.gelu(x)
    elif activation == "gelu_tanh":
        x = F.gelu(x, approximate="tanh")
    else:
        x = F.silu(x)
    raw = F.linear(x, weight.to(wide), bias.to(wide))
    return raw - torch.sigmoid(difference.to(wide))[:, None] * raw.mean(-1, keepdim=True)
