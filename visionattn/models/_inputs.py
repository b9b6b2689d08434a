"""What every backbone asks of its input."""

import torch.nn.functional as F
from timm.layers import register_notrace_function
from torch import Tensor

__all__ = ["check_images", "pad_to_multiple"]


@register_notrace_function  # compares sizes, which a symbolic trace can't
def check_images(x: Tensor, in_chans: int) -> Tensor:
    """Returns `x` if it is a batch of images `[B, in_chans, H, W]`, floating-point and not zero-sized; B may be 0.

    Raises:
        TypeError: not floating-point.
        ValueError: another shape.
    """
    if x.dim() != 4 or x.shape[1] != in_chans or x.shape[2] < 1 or x.shape[3] < 1:
        raise ValueError(
            f"x must be images of shape [batch, {in_chans}, height, width], not zero-sized, got {list(x.shape)}"
        )
    if not x.is_floating_point():
        raise TypeError(f"x must be floating-point images, scaled and normalized, got {x.dtype}")
    return x


@register_notrace_function
def pad_to_multiple(x: Tensor, multiple: int) -> Tensor:
    """Zero-pads `[B, C, H, W]` at the bottom and right until its sides are multiples of `multiple`."""
    below, right = -x.shape[2] % multiple, -x.shape[3] % multiple
    return F.pad(x, [0, right, 0, below]) if below or right else x
