"""Multiply-accumulates of a model, without running it."""

import copy
import math
from typing import List, Optional, Sequence, Union

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode, register_flop_formula

from visionattn import _library

__all__ = ["count_macs"]


def _attention_flops(
    query_shape: Sequence[int],
    key_shape: Sequence[int],
    value_shape: Sequence[int],
    rpb_shape: Optional[Sequence[int]],
    additional_keys_shape: Optional[Sequence[int]],
    additional_values_shape: Optional[Sequence[int]],
    kernel_size: List[int],
    *args,
    out_shape=None,
    **kwargs,
) -> int:
    """Two for every multiply-accumulate of the logits and of the weighted sum of values; windows counted in full."""
    keys = math.prod(min(k, n) for k, n in zip(kernel_size, query_shape[1:-2]))
    if additional_keys_shape is not None:
        keys += additional_keys_shape[1]
    return 2 * math.prod(query_shape[:-1]) * keys * (query_shape[-1] + value_shape[-1])


def _attention_backward_flops(grad_shape, grad_lse_shape, *args, out_shape=None, **kwargs) -> int:
    """Five products instead of the forward's two."""
    query, key, value, rpb, extra_keys, extra_values, _, _, kernel_size = args[:9]
    return _attention_flops(query, key, value, rpb, extra_keys, extra_values, kernel_size) * 5 // 2


if _library.HAS_OPERATORS:
    register_flop_formula(torch.ops.visionattn.neighborhood_attention)(_attention_flops)
    register_flop_formula(torch.ops.visionattn.neighborhood_attention_backward)(_attention_backward_flops)


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
    model = copy.deepcopy(model).to("meta").eval()
    dtype = next((p.dtype for p in model.parameters()), torch.float32)
    images = torch.empty((batch_size, *input_size), device="meta", dtype=dtype)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(images)
    return counter.get_total_flops() // 2
