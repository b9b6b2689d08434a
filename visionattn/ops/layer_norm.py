"""Layer norm that writes the dtype that its reader wants."""

from __future__ import annotations

from typing import Optional

import torch
import torch.nn.functional as F
from torch import Tensor

from visionattn import _library
from visionattn.ops import _arguments as check
from visionattn.ops import _operators

__all__ = ["layer_norm"]

_MAX_CHANNELS = 1024  # wider rows gain nothing over torch's own kernel


def layer_norm(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    eps: float = 1e-5,
    dtype: Optional[torch.dtype] = None,
    *,
    backend: str = "auto",
) -> Tensor:
    """Layer norm over the last axis (Ba et al., 2016, arXiv:1607.06450), with float32 statistics.

    Autocast does not change its dtypes: `dtype` says what comes out. In half precision that saves the pass over a
    float32 output which casts it for the matrix product that reads it.

    Args:
        x: `[*, channels]`, floating-point.
        weight: `[channels]`.
        bias: `[channels]`.
        eps: Added to the variance.
        dtype: Of the output; None for that of `x`.
        backend: `"auto"`: a CUDA kernel that is faster than torch's for up to 1024 channels, a multiple of 4, with
            float32 parameters; else torch's own layer norm. `"reference"`: torch's.

    Returns:
        `[*, channels]` in `dtype`.

    Raises:
        TypeError: not floating-point tensors.
        ValueError: shapes that do not fit.
    """
    check.check_backend(backend)
    check.check_tensor("x", x)
    if x.dim() < 1 or weight.shape != x.shape[-1:] or bias.shape != x.shape[-1:]:
        raise ValueError(
            f"weight and bias must have the shape of the last axis of x, got {list(weight.shape)} and "
            f"{list(bias.shape)} for x of shape {list(x.shape)}"
        )
    dtype = x.dtype if dtype is None else dtype
    if backend == "auto" and _is_served(x, weight, bias, dtype):
        return _operators.run_compiled("layer_norm", x.contiguous(), weight, bias, eps, dtype)[0]
    with torch.autocast(x.device.type, enabled=False):
        wide = torch.promote_types(x.dtype, weight.dtype)
        return F.layer_norm(x.to(wide), weight.shape, weight.to(wide), bias.to(wide), eps).to(dtype)


def _is_served(x: Tensor, weight: Tensor, bias: Tensor, dtype: torch.dtype) -> bool:
    return (
        x.is_cuda
        and not torch.compiler.is_compiling()  # the compiler fuses torch's own with its neighbors
        and weight.dtype == bias.dtype == torch.float32
        and x.shape[-1] % 4 == 0
        and 0 < x.shape[-1] <= _MAX_CHANNELS
        and (x.dtype == dtype or torch.float32 in (x.dtype, dtype))
        and _library.has_kernel(x.device, x.dtype)
        and _library.has_kernel(x.device, dtype)
    )


def _fake(x, weight, bias, eps, dtype):
    rows = x.numel() // x.shape[-1]
    return x.new_empty(x.shape, dtype=dtype), *(x.new_empty((rows,), dtype=torch.float32) for _ in range(2))


def _backward_fake(grad_output, x, weight, mean, rstd):
    return torch.empty_like(x), torch.empty_like(weight), torch.empty_like(weight)


def _setup_context(ctx, inputs, output) -> None:
    ctx.save_for_backward(*inputs[:2], *output[1:])
    ctx.mark_non_differentiable(*output[1:])
    ctx.set_materialize_grads(False)


def _backward(ctx, grad_output, *_):
    if grad_output is None:
        return (None,) * 5
    return *_operators.run_backward("layer_norm_backward", grad_output, *ctx.saved_tensors), None, None


if _library.HAS_OPERATORS:
    torch.library.register_fake("visionattn::layer_norm", _fake)
    torch.library.register_fake("visionattn::layer_norm_backward", _backward_fake)
    _operators.register_autograd("layer_norm", _backward, _setup_context)
    _operators.refuse_second_order("layer_norm_backward")
