"""Convolution and batch norm, the step between two resolutions in many convolutional backbones."""

from collections import OrderedDict

from torch import nn

__all__ = ["ConvNorm"]


class ConvNorm(nn.Sequential):
    """Convolution, then batch norm, with nothing after it: `[B, in_chans, H, W]` to `[B, out_chans, H', W']`.

    Args:
        in_chans: Input channels.
        out_chans: Output channels.
        kernel_size: Odd side of the kernel; the map is padded by half of it, so `H' = ceil(H / stride)`.
        stride: Step of the convolution.
        bias: Whether the convolution has a bias of its own.
        device: Device of the parameters.
        dtype: Dtype of the parameters.
    """

    def __init__(
        self,
        in_chans: int,
        out_chans: int,
        kernel_size: int = 3,
        stride: int = 1,
        bias: bool = False,
        device=None,
        dtype=None,
    ):
        dd = dict(device=device, dtype=dtype)
        conv = nn.Conv2d(in_chans, out_chans, kernel_size, stride, kernel_size // 2, bias=bias, **dd)
        super().__init__(OrderedDict(conv=conv, norm=nn.BatchNorm2d(out_chans, **dd)))
