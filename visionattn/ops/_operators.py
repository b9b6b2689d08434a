"""Makes the compiled operators full citizens of torch: fake kernels, gradients, autocast.

The operators themselves, `torch.ops.visionattn.*`, are declared in `csrc/library.cpp`.
"""

from __future__ import annotations

import contextlib
import functools
from typing import Any, Callable, Optional, Sequence

import torch
from torch import Tensor

from visionattn import _library
from visionattn.ops import reference

# Asked once: the tracer of torch 2.10 can't follow the question.
_AUTOCAST_DEVICES = tuple(kind for kind in ("cpu", "cuda", "mps", "xpu") if torch.amp.is_autocast_available(kind))


def is_autocast_enabled(device_type: str) -> bool:
    return device_type in _AUTOCAST_DEVICES and torch.is_autocast_enabled(device_type)


def without_autocast(device_type: str) -> contextlib.AbstractContextManager:
    """A context in which nothing is cast; of no effect where autocast is off, or not known for the device."""
    return torch.autocast(device_type, enabled=False) if is_autocast_enabled(device_type) else contextlib.nullcontext()


def autocast(device_type: str, values: Sequence[Any]) -> list[Any]:
    """`values` with floating-point tensors in autocast's dtype; float64 stays, as everywhere in torch.amp."""
    dtype = torch.get_autocast_dtype(device_type)
    return [
        x.to(dtype) if isinstance(x, Tensor) and x.is_floating_point() and x.dtype != torch.float64 else x
        for x in values
    ]


def accumulator(dtype: torch.dtype) -> torch.dtype:
    """The dtype that kernels accumulate in, and that lse and the bias gradient have."""
    return torch.promote_types(dtype, torch.float32)


def dispatch(name: str, backend: str, *args: Any) -> Any:
    """Runs an operator on checked arguments that are in their final dtype: the compiled one, or the reference.

    Args:
        name: Operator, and function of `visionattn.ops.reference`.
        backend: `"auto"` or `"reference"`.
        *args: The operator's arguments; the first is a tensor.
    """
    x = args[0]
    if backend == "reference" or not _library.has_kernel(x.device, x.dtype):
        function = getattr(reference, name)
        if is_autocast_enabled(x.device.type):
            with torch.autocast(x.device.type, enabled=False):
                return function(*args)
        return function(*args)
    return run_compiled(name, *args)


def run_compiled(name: str, *args: Any) -> Any:
    """Runs a compiled operator on checked arguments that are in their final dtype."""
    if torch.compiler.is_compiling():
        return getattr(torch.ops.visionattn, name).default(*args)
    if is_autocast_enabled(args[0].device.type):
        with torch._C._DisableAutocast():
            return _run_eager(name, args)
    return _run_eager(name, args)


def _run_eager(name: str, args: tuple[Any, ...]) -> Any:
    if torch.is_grad_enabled() and any(isinstance(x, Tensor) and x.requires_grad for x in args):
        return _EAGER[name].apply(*args)
    operator = _overload(name)
    # Forward-mode tangents must reach autograd, which refuses them.
    return operator(*args) if torch.autograd.forward_ad._current_level >= 0 else _below_autograd(operator, *args)


@functools.cache
def _overload(name: str) -> Any:
    return getattr(torch.ops.visionattn, name).default


def _below_autograd(operator: Any, *args: Any) -> Any:
    """Calls an operator past autograd's bookkeeping, tens of microseconds, where no gradient can be asked for."""
    with torch._C._AutoDispatchBelowAutograd():
        return operator(*args)


# Eager calls that want gradients go through these: they cost half of what the operators' own autograd does.
_EAGER: dict[str, type[torch.autograd.Function]] = {}


def register_autograd(name: str, backward: Callable, setup_context: Callable) -> None:
    """Gives an operator its gradient: under tracing and for direct calls, and for eager calls by `dispatch`."""
    torch.library.register_autograd(f"visionattn::{name}", backward, setup_context=setup_context)
    operator = getattr(torch.ops.visionattn, name).default

    def forward(ctx, *args):  # a setup_context of its own would cost an inspection of signatures per call
        output = _below_autograd(operator, *args)
        setup_context(ctx, args, output)
        return output

    methods = {"forward": staticmethod(forward), "backward": staticmethod(backward)}
    _EAGER[name] = type(name, (torch.autograd.Function,), methods)


def run_backward(name: str, *args: Any) -> Any:
    """Calls an operator within a backward pass; only one that is itself recorded needs autograd."""
    operator = _overload(name)
    if torch.compiler.is_compiling() or torch.is_grad_enabled():
        return operator(*args)
    return _below_autograd(operator, *args)


# Kept alive: the registrations last as long as this object.
_IMPL = torch.library.Library("visionattn", "IMPL") if _library.HAS_OPERATORS else None


def register_autocast(library: torch.library.Library, name: str, kept: Sequence[int] = ()) -> None:
    """Casts tensor arguments to autocast's dtype, whatever it is (torch.library.register_autocast fixes one).

    Args:
        library: Keeps the registration alive.
        name: Operator.
        kept: Positions of arguments that keep their dtype.
    """
    operator = getattr(torch.ops.visionattn, name)
    for device_type, key in (("cpu", "AutocastCPU"), ("cuda", "AutocastCUDA")):

        def kernel(*args: Any, device_type: str = device_type, key: str = key) -> Any:
            with torch._C._ExcludeDispatchKeyGuard(torch._C.DispatchKeySet(getattr(torch._C.DispatchKey, key))):
                cast = autocast(device_type, args)
                return operator(*(args[i] if i in kept else x for i, x in enumerate(cast)))

        library.impl(name, kernel, key)


def refuse_second_order(name: str) -> None:
    def backward(ctx: Any, *grads: Any) -> Any:
        raise NotImplementedError(
            f"visionattn::{name} has no gradient of its gradient; pass backend='reference' for higher-order derivatives"
        )

    torch.library.register_autograd(f"visionattn::{name}", backward)


# Fused neighborhood attention ---------------------------------------------------------------------------------------


def _attention_fake(
    query, key, value, rpb, additional_keys, additional_values, kernel_size, stride, dilation, is_causal, scale
):
    shape = query.shape[:-1]
    return query.new_empty((*shape, value.shape[-1])), query.new_empty(shape, dtype=accumulator(query.dtype))


def _bias_gradient_fake(rpb: Optional[Tensor], x: Tensor) -> Tensor:
    return x.new_empty((0,) if rpb is None else rpb.shape, dtype=accumulator(x.dtype))


def _attention_backward_fake(
    grad_output, grad_lse, query, key, value, rpb, additional_keys, additional_values, output, lse, *area_and_scale
):
    def like(x: Optional[Tensor]) -> Tensor:
        return query.new_empty((0,) if x is None else x.shape)

    bias = _bias_gradient_fake(rpb, query)
    return like(query), like(key), like(value), bias, like(additional_keys), like(additional_values)


def _qkv_fake(qkv, rpb, kernel_size, stride, dilation, is_causal, scale):
    query, key, value = qkv.unbind(-3)
    return _attention_fake(query, key, value, rpb, None, None, kernel_size, stride, dilation, is_causal, scale)


def _qkv_backward_fake(grad_output, grad_lse, qkv, rpb, output, lse, *area_and_scale):
    return qkv.new_empty(qkv.shape), _bias_gradient_fake(rpb, qkv)


def _attention_autograd(name: str, tensors: int) -> None:
    """Gradients of an operator of `tensors` optional tensors, then numbers, by the operator `<name>_backward`."""

    def setup_context(ctx, inputs, output) -> None:
        ctx.area_and_scale = inputs[tensors:]
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*inputs[:tensors], *output)

    def backward(ctx, grad_output, grad_lse):
        *inputs, output, lse = ctx.saved_tensors
        grads = [None] * tensors
        if grad_output is not None or grad_lse is not None:
            grad_output = torch.zeros_like(output) if grad_output is None else grad_output
            grads = run_backward(f"{name}_backward", grad_output, grad_lse, *inputs, output, lse, *ctx.area_and_scale)
            grads = [None if x is None else grad for x, grad in zip(inputs, grads)]
        return (*grads, *(None,) * len(ctx.area_and_scale))

    register_autograd(name, backward, setup_context)


# Unfused neighborhood attention: the gradient of each operator is made of the others --------------------------------


def _qk_fake(query, key, rpb, kernel_size, dilation, is_causal):
    slots = 1
    for k in kernel_size:
        slots *= k
    return query.new_empty((*query.shape[:-1], slots))


def _av_fake(attention, value, kernel_size, dilation, is_causal):
    return value.new_empty(value.shape)


def _rpb_gradient_fake(attention, kernel_size, dilation, is_causal):
    return attention.new_empty(
        (attention.shape[1], *(2 * k - 1 for k in kernel_size)), dtype=accumulator(attention.dtype)
    )


def _qk_setup(ctx, inputs, output) -> None:
    query, key, ctx.rpb, *ctx.area = inputs
    ctx.has_rpb = ctx.rpb is not None
    del ctx.rpb
    ctx.save_for_backward(query, key)


def _qk_backward(ctx, grad):
    query, key = ctx.saved_tensors
    need_query, need_key, need_rpb = ctx.needs_input_grad[:3]
    return (
        run_backward("neighborhood_av", grad, key, *ctx.area) if need_query else None,
        run_backward("neighborhood_av_transposed", grad, query, *ctx.area) if need_key else None,
        run_backward("neighborhood_rpb_gradient", grad, *ctx.area) if ctx.has_rpb and need_rpb else None,
        *(None,) * len(ctx.area),
    )


def _av_setup(ctx, inputs, output) -> None:
    attention, value, *ctx.area = inputs
    ctx.save_for_backward(attention, value)


def _av_backward(ctx, grad):
    attention, value = ctx.saved_tensors
    grad_attention = None
    if ctx.needs_input_grad[0]:
        # Slots outside the window come out as -inf; they have no gradient.
        grad_attention = run_backward("neighborhood_qk", grad, value, None, *ctx.area)
        grad_attention = grad_attention.masked_fill(grad_attention == float("-inf"), 0.0)
    grad_value = (
        run_backward("neighborhood_av_transposed", attention, grad, *ctx.area) if ctx.needs_input_grad[1] else None
    )
    return (grad_attention, grad_value, *(None,) * len(ctx.area))


if _library.HAS_OPERATORS:
    for _name, _fake in (
        ("neighborhood_attention", _attention_fake),
        ("neighborhood_attention_backward", _attention_backward_fake),
        ("neighborhood_attention_qkv", _qkv_fake),
        ("neighborhood_attention_qkv_backward", _qkv_backward_fake),
        ("neighborhood_qk", _qk_fake),
        ("neighborhood_av", _av_fake),
        ("neighborhood_av_transposed", _av_fake),
        ("neighborhood_rpb_gradient", _rpb_gradient_fake),
    ):
        torch.library.register_fake(f"visionattn::{_name}", _fake)
    _attention_autograd("neighborhood_attention", tensors=6)
    _attention_autograd("neighborhood_attention_qkv", tensors=2)
    register_autograd("neighborhood_qk", _qk_backward, _qk_setup)
    register_autograd("neighborhood_av", _av_backward, _av_setup)
    for _name in (
        "neighborhood_attention_backward",
        "neighborhood_attention_qkv_backward",
        "neighborhood_av_transposed",
        "neighborhood_rpb_gradient",
    ):
        refuse_second_order(_name)
    # The bias keeps its dtype.
    register_autocast(_IMPL, "neighborhood_attention", kept=(3,))
    register_autocast(_IMPL, "neighborhood_attention_qkv", kept=(1,))
    register_autocast(_IMPL, "neighborhood_qk", kept=(2,))
    register_autocast(_IMPL, "neighborhood_av")
