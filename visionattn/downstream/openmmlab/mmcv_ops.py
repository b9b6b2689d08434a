"""mmcv's operators out of torchvision's, where mmcv is installed without its compiled ones (`mmcv-lite`)."""

from __future__ import annotations

import sys
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType
from typing import Any, Callable, Optional, Tuple

import torch
import torchvision
from torch import Tensor

__all__ = ["enable_without_mmcv_ops"]


def enable_without_mmcv_ops() -> bool:
    """Lets mmdet and mmseg run on `mmcv-lite`: nothing to compile, CPU or GPU.

    Non-maximum suppression, RoI align (average), deformable convolution (both versions) and the sigmoid focal loss run
    on torchvision's kernels, half precision in float32. Any other operator of mmcv raises NotImplementedError when it
    is called. Call this before mmdet or mmseg are imported.

    Returns:
        Whether torchvision serves; False where mmcv's compiled operators are there, which stay as they are.

    Raises:
        ModuleNotFoundError: neither mmcv nor mmcv-lite is installed.
    """
    if find_spec("mmcv") is None:
        raise ModuleNotFoundError("mmcv is missing: pip install 'visionattn[openmmlab]'")
    import mmcv

    loaded = sys.modules.get("mmcv._ext")
    if loaded is None and find_spec("mmcv._ext") is None:
        mmcv._ext = sys.modules["mmcv._ext"] = loaded = _TorchvisionOps()
    return isinstance(loaded, _TorchvisionOps)


class _TorchvisionOps(ModuleType):
    """Takes the place of `mmcv._ext`; its functions have the names and arguments of mmcv's, outputs included."""

    def __init__(self):
        super().__init__("mmcv._ext", "mmcv's operators out of torchvision's.")
        self.__spec__ = ModuleSpec("mmcv._ext", None)  # by which mmengine asks whether mmcv has operators

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name.startswith("__"):
            raise AttributeError(name)

        def missing(*args: Any, **kwargs: Any) -> None:
            raise NotImplementedError(f"torchvision has no counterpart of mmcv's {name}: it needs a compiled mmcv")

        return missing

    @staticmethod
    def nms(boxes: Tensor, scores: Tensor, iou_threshold: float, offset: int) -> Tensor:
        boxes = torch.cat([boxes[:, :2], boxes[:, 2:] + offset], 1)
        return torchvision.ops.nms(boxes.float(), scores.float(), iou_threshold)

    @staticmethod
    def roi_align_forward(
        x: Tensor, rois: Tensor, out: Tensor, argmax_y: Tensor, argmax_x: Tensor, pool_mode: int, **options: Any
    ) -> None:
        if pool_mode != 1:
            raise NotImplementedError("torchvision's RoI align takes averages: pool_mode must be 'avg', got 'max'")
        x, rois = _wide(x, rois)
        out.copy_(torch.ops.torchvision.roi_align(x, rois, *_roi_sizes(options), *_roi_sampling(options)))

    @staticmethod
    def roi_align_backward(
        grad: Tensor, rois: Tensor, argmax_y: Tensor, argmax_x: Tensor, grad_x: Tensor, pool_mode: int, **options: Any
    ) -> None:
        grad, rois = _wide(grad, rois)
        backward = torch.ops.torchvision._roi_align_backward
        grad_x.copy_(backward(grad, rois, *_roi_sizes(options), *grad_x.shape, *_roi_sampling(options)))

    @staticmethod
    def sigmoid_focal_loss_forward(
        x: Tensor, target: Tensor, weight: Tensor, out: Tensor, gamma: float, alpha: float
    ) -> None:
        out.copy_(_focal_loss(x, target, weight, gamma, alpha))

    @staticmethod
    def sigmoid_focal_loss_backward(
        x: Tensor, target: Tensor, weight: Tensor, grad_x: Tensor, gamma: float, alpha: float
    ) -> None:
        with torch.enable_grad():
            x = x.detach().float().requires_grad_()
            loss = _focal_loss(x, target, weight, gamma, alpha).sum()
        grad_x.copy_(torch.autograd.grad(loss, x)[0])

    @staticmethod
    def deform_conv_forward(
        x: Tensor, weight: Tensor, offset: Tensor, out: Tensor, columns: Tensor, ones: Tensor, **options: Any
    ) -> None:
        out.copy_(_deform_conv(x, weight, offset, None, None, _deform_sizes(options)))

    @staticmethod
    def deform_conv_backward_input(
        x: Tensor,
        offset: Tensor,
        grad: Tensor,
        grad_x: Tensor,
        grad_offset: Tensor,
        weight: Tensor,
        columns: Tensor,
        **options: Any,
    ) -> None:
        grads = _deform_conv_backward(grad, x, weight, offset, None, None, _deform_sizes(options))
        grad_x.copy_(grads[0])
        grad_offset.copy_(grads[2])

    @staticmethod
    def deform_conv_backward_parameters(
        x: Tensor, offset: Tensor, grad: Tensor, grad_weight: Tensor, columns: Tensor, ones: Tensor, **options: Any
    ) -> None:
        # mmcv hands the weight itself over only for the other half of the gradients; this half does not depend on it
        grads = _deform_conv_backward(
            grad, x, torch.zeros_like(grad_weight), offset, None, None, _deform_sizes(options)
        )
        grad_weight.add_(grads[1], alpha=options["scale"])

    @staticmethod
    def modulated_deform_conv_forward(
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        ones: Tensor,
        offset: Tensor,
        mask: Tensor,
        out: Tensor,
        columns: Tensor,
        **options: Any,
    ) -> None:
        bias = bias if options["with_bias"] else None
        out.copy_(_deform_conv(x, weight, offset, mask, bias, _modulated_sizes(options)))

    @staticmethod
    def modulated_deform_conv_backward(
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        ones: Tensor,
        offset: Tensor,
        mask: Tensor,
        columns: Tensor,
        grad_x: Tensor,
        grad_weight: Tensor,
        grad_bias: Tensor,
        grad_offset: Tensor,
        grad_mask: Tensor,
        grad: Tensor,
        **options: Any,
    ) -> None:
        bias = bias if options["with_bias"] else None
        grads = _deform_conv_backward(grad, x, weight, offset, mask, bias, _modulated_sizes(options))
        for out, value in zip((grad_x, grad_weight, grad_offset, grad_mask), grads):
            out.copy_(value)
        if bias is not None:
            grad_bias.copy_(grads[4])


def _wide(*tensors: Tensor) -> Tuple[Tensor, ...]:
    """In the precision of the first, float32 at least."""
    dtype = torch.promote_types(tensors[0].dtype, torch.float32)
    return tuple(tensor.to(dtype).contiguous() for tensor in tensors)


def _roi_sizes(options: Any) -> Tuple[float, int, int]:
    return options["spatial_scale"], options["aligned_height"], options["aligned_width"]


def _roi_sampling(options: Any) -> Tuple[int, bool]:
    return options["sampling_ratio"], options["aligned"]


def _focal_loss(x: Tensor, target: Tensor, weight: Tensor, gamma: float, alpha: float) -> Tensor:
    """`[N, C]` logits and class of each row, C for background, to `[N, C]` losses; `weight` is `[C]` or empty."""
    wanted = torch.nn.functional.one_hot(target, x.shape[1] + 1)[:, :-1].float()
    loss = torchvision.ops.sigmoid_focal_loss(x.float(), wanted, alpha, gamma)
    if not weight.numel():
        return loss
    return loss * torch.cat([weight, weight.new_ones(1)])[target][:, None]


def _deform_sizes(options: Any) -> Tuple[int, ...]:
    names = ("dH", "dW", "padH", "padW", "dilationH", "dilationW", "group", "deformable_group")
    return tuple(options[name] for name in names)


def _modulated_sizes(options: Any) -> Tuple[int, ...]:
    pairs = ("stride_h", "stride_w", "pad_h", "pad_w", "dilation_h", "dilation_w")
    return tuple(options[name] for name in (*pairs, "group", "deformable_group"))


def _deform_arguments(
    x: Tensor, weight: Tensor, offset: Tensor, mask: Optional[Tensor], bias: Optional[Tensor]
) -> Tuple[Tuple[Tensor, ...], bool]:
    mask_or_none = x.new_zeros(x.shape[0], 1) if mask is None else mask
    bias_or_zero = x.new_zeros(weight.shape[0]) if bias is None else bias
    return _wide(x, weight, offset, mask_or_none, bias_or_zero), mask is not None


def _deform_conv(
    x: Tensor,
    weight: Tensor,
    offset: Tensor,
    mask: Optional[Tensor],
    bias: Optional[Tensor],
    sizes: Tuple[int, ...],
) -> Tensor:
    tensors, use_mask = _deform_arguments(x, weight, offset, mask, bias)
    return torch.ops.torchvision.deform_conv2d(*tensors, *sizes, use_mask)


def _deform_conv_backward(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    offset: Tensor,
    mask: Optional[Tensor],
    bias: Optional[Tensor],
    sizes: Tuple[int, ...],
) -> Tuple[Tensor, ...]:
    """Gradients of x, weight, offset, mask and bias."""
    tensors, use_mask = _deform_arguments(x, weight, offset, mask, bias)
    return torch.ops.torchvision._deform_conv2d_backward(*_wide(grad), *tensors, *sizes, use_mask)
