"""Layer norm for the blocks of a backbone."""

from typing import List, Optional

import torch
import torch.nn.functional as F
from timm.layers import register_notrace_module
from torch import Tensor, nn

from visionattn import ops
from visionattn.ops._operators import is_autocast_enabled

__all__ = ["LayerNorm"]


@torch.jit.unused
def _norm(x: Tensor, shape: List[int], weight: Tensor, bias: Tensor, eps: float, feeds_linear: bool) -> Tensor:
    if torch.compiler.is_compiling() or not x.is_cuda:
        return F.layer_norm(x, shape, weight, bias, eps)
    dtype: Optional[torch.dtype] = None
    if is_autocast_enabled("cuda"):
        dtype = torch.get_autocast_dtype("cuda") if feeds_linear else torch.float32
    return ops.layer_norm(x, weight, bias, eps, dtype)


@register_notrace_module  # a leaf of symbolic traces, as torch's own is
class LayerNorm(nn.LayerNorm):
    """`nn.LayerNorm` over the last axis, with our kernel on CUDA; parameters and results are the same.

    Args:
        channels: Size of the last axis.
        eps: Added to the variance.
        feeds_linear: Whether only matrix products read the output: under autocast it then comes in autocast's dtype,
            which they would cast it to, instead of float32.
        device: Device of the parameters.
        dtype: Dtype of the parameters.
    """

    def __init__(self, channels: int, eps: float = 1e-5, feeds_linear: bool = False, device=None, dtype=None):
        super().__init__(channels, eps=eps, device=device, dtype=dtype)
        self.feeds_linear = feeds_linear

    def forward(self, x: Tensor) -> Tensor:
        if torch.jit.is_scripting():
            return F.layer_norm(x, self.normalized_shape, self.weight, self.bias, self.eps)
        return _norm(x, self.normalized_shape, self.weight, self.bias, self.eps, self.feeds_linear)
