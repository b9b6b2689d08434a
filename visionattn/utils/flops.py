"""Multiply-accumulates of a model, without running it."""

import copy
import math
from typing import Sequence, Union

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode, register_flop_formula

from visionattn import _library

__all__ = ["count_macs"]


# The formulas get the operators' arguments with shapes in place of tensors, and count two per multiply-accumulate.


def _attention(q, k, v, rpb, extra_k, extra_v, kernel_size, *rest, **_) -> int:
    """The logits and the weighted sum of values; windows are counted in full."""
    keys = math.prod(min(size, length) for size, length in zip(kernel_size, q[1:-2]))
    keys += extra_k[1] if extra_k is not None else 0
    return 2 * math.prod(q[:-1]) * keys * (q[-1] + v[-1])


def _attention_backward(grad, grad_lse, q, k, v, rpb, extra_k, extra_v, out, lse, kernel_size, *rest, **_) -> int:
    """Five products where the forward has two."""
    return _attention(q, k, v, rpb, extra_k, extra_v, kernel_size) * 5 // 2


def _packed(qkv, rpb, kernel_size, *rest, **_) -> int:
    q = (*qkv[:-3], *qkv[-2:])
    return _attention(q, q, q, rpb, None, None, kernel_size)


def _packed_backward(grad, grad_lse, qkv, rpb, out, lse, kernel_size, *rest, **_) -> int:
    return _packed(qkv, rpb, kernel_size) * 5 // 2


def _unfused_logits(q, k, rpb, kernel_size, *rest, **_) -> int:
    return 2 * math.prod(q) * math.prod(kernel_size)


def _unfused_sum(attention, v, kernel_size, *rest, **_) -> int:
    return 2 * math.prod(attention) * v[-1]


_FORMULAS = {
    "neighborhood_attention": _attention,
    "neighborhood_attention_backward": _attention_backward,
    "neighborhood_attention_qkv": _packed,
    "neighborhood_attention_qkv_backward": _packed_backward,
    "neighborhood_qk": _unfused_logits,
    "neighborhood_av": _unfused_sum,
    "neighborhood_av_transposed": _unfused_sum,
}

if _library.HAS_OPERATORS:
    for _name, _formula in _FORMULAS.items():
        register_flop_formula(getattr(torch.ops.visionattn, _name))(_formula)


def count_macs(model: nn.Module, input_size: Union[int, Sequence[int]] = 224, batch_size: int = 1) -> int:
    """Multiply-accumulates of convolutions, linear layers and attention in a forward pass.

    Works on shapes alone (meta tensors): no memory is taken and nothing is computed. Norms, activations, softmax and
    bias additions are not counted. Papers call this "FLOPs".

    Args:
        model: Network that takes images; it is not changed.
        input_size: `(channels, height, width)`, or one int for square images with the model's channels.
        batch_size: Images.

    Returns:
        Number of multiply-accumulates.

    Raises:
        ValueError: `input_size` is neither an int nor three ints.
    """
    if isinstance(input_size, int):
        input_size = (getattr(model, "in_chans", 3), input_size, input_size)
    if len(input_size) != 3:
        raise ValueError(f"input_size must be an int or (channels, height, width), got {tuple(input_size)}")
    model = copy.deepcopy(model).to("meta").eval().requires_grad_(False)
    dtype = next((p.dtype for p in model.parameters()), torch.float32)
    images = torch.empty((batch_size, *input_size), device="meta", dtype=dtype)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(images)
    return counter.get_total_flops() // 2
