"""Operators that Triton kernels serve on CUDA, and the plain PyTorch of `visionattn.ops.reference` everywhere else.

An operator `<op>` is a `TritonOperator` in `visionattn/ops/<op>.py`. Its kernels are two functions of
`visionattn/ops/triton/<op>.py`, which is imported at the first call that needs it:

    forward(*arguments) -> (output, *saved)
    backward(grad_output, *arguments, *saved) -> one gradient per tensor argument; of no use for an absent tensor

From them come `torch.ops.visionattn.<op>` and `<op>_backward`: real operators with fake kernels, gradient and autocast,
which `torch.compile`, `torch.export` and dispatch modes see. Eager calls on plain tensors skip the dispatcher.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
from typing import Any, Callable, Optional, Sequence

import torch
from torch import Tensor

from visionattn import _library
from visionattn.ops import _operators

__all__ = ["BACKENDS", "TritonOperator"]

BACKENDS = ("auto", "reference", "triton")
DTYPES = (torch.float32, torch.float16, torch.bfloat16)
_INSTALLED = importlib.util.find_spec("triton") is not None
# Triton's interpreter runs kernels on a CPU, slowly: that is how they are tested without a GPU.
_INTERPRETED = os.environ.get("TRITON_INTERPRET", "0") == "1"
_LIBRARY = torch.library.Library("visionattn", "FRAGMENT")

Outputs = tuple[Tensor, ...]


class TritonOperator:
    """`visionattn::<name>`: forward, backward, and who serves a call.

    Args:
        name: Of the operator, of its module in `ops.triton`, and of its function in `ops.reference`.
        arguments: Arguments as in a torch schema, the tensors first: `"Tensor query, Tensor? bias, float eps"`.
        fake: Called with the arguments: empty `(output, *saved)` of the shapes, dtypes and strides that the kernels
            return.
        saved: How many tensors the forward kernel returns besides its output, for backward.
        reasons: Called with the arguments: why the kernels can't serve them, or None. Asked about shapes only.
        kept: Positions of tensor arguments that autocast leaves as they are.
        plain: What `"auto"` runs where the kernels can't serve; the reference by default.
        saves_output: Whether backward also gets the output, before what else was saved.
        constant: Positions of tensor arguments that the kernels give no gradient to; `reasons` must see to it that
            nobody waits for one.
    """

    def __init__(
        self,
        name: str,
        arguments: str,
        fake: Callable[..., Outputs],
        saved: int,
        reasons: Optional[Callable[..., Optional[str]]] = None,
        kept: Sequence[int] = (),
        plain: Optional[Callable[..., Tensor]] = None,
        saves_output: bool = False,
        constant: Sequence[int] = (),
    ):
        self.name = name
        self.constant = constant
        self.saved = saved
        self.first_saved = 0 if saves_output else 1
        self.fake = fake
        self.reasons = reasons
        self.tensors = sum(argument.strip().startswith("Tensor") for argument in arguments.split(","))
        self.reference = getattr(importlib.import_module("visionattn.ops.reference"), name)
        self.plain = plain or self.reference
        self._kernels: Any = None
        results = ", ".join(["Tensor"] * (1 + saved))
        gradients = ", ".join(["Tensor"] * self.tensors)
        states = "".join(f", Tensor saved_{i}" for i in range(self.first_saved, 1 + saved))
        self.forward = self._define(name, f"({arguments}) -> ({results})", self._run_forward, fake)
        self.backward = self._define(
            f"{name}_backward",
            f"(Tensor grad, {arguments}{states}) -> ({gradients})",
            self._run_backward,
            self._fake_gradients,
        )
        torch.library.register_autograd(
            f"visionattn::{name}", self._gradients, setup_context=self._setup_context, lib=_LIBRARY
        )
        _operators.refuse_second_order(f"{name}_backward")
        _operators.register_autocast(_LIBRARY, name, kept)
        methods = {"forward": staticmethod(self._forward_with_context), "backward": staticmethod(self._gradients)}
        self._function = type(name, (torch.autograd.Function,), methods)

    def _define(self, name: str, schema: str, kernel: Callable, fake: Callable) -> Any:
        if schema.endswith("-> (Tensor)"):  # a single result is no tuple to torch
            schema, inner, inner_fake = schema[: -len("(Tensor)")] + "Tensor", kernel, fake
            kernel, fake = (lambda *args: inner(*args)[0]), (lambda *args: inner_fake(*args)[0])
        _LIBRARY.define(name + schema, tags=(torch.Tag.pt2_compliant_tag,))
        for key in ("CUDA", "CPU"):
            _LIBRARY.impl(name, kernel, key)
        torch.library.register_fake(f"visionattn::{name}", fake, lib=_LIBRARY)
        return getattr(torch.ops.visionattn, name).default

    def __call__(self, backend: str, *args: Any) -> Tensor:
        """Runs the operator on checked arguments that are in their final dtype; the first is a tensor.

        Raises:
            ValueError: `backend` is not one of `BACKENDS`.
            NotImplementedError: `backend="triton"` where the kernels can't serve.
        """
        x = args[0]
        if backend == "reference" or not self._served(backend, *args):
            function = self.reference if backend == "reference" else self.plain
            if _operators.is_autocast_enabled(x.device.type):
                with torch.autocast(x.device.type, enabled=False):
                    return function(*args)
            return function(*args)
        if torch.compiler.is_compiling() or not _is_plain(args):
            return _first(self.forward(*args))
        if torch.is_grad_enabled():
            for tensor in args[: self.tensors]:
                if tensor is not None and tensor.requires_grad:
                    return self._function.apply(*args)
        return self._run_forward(*args)[0]

    def _served(self, backend: str, *args: Any) -> bool:
        if backend not in BACKENDS:
            raise ValueError(f"backend must be one of {', '.join(map(repr, BACKENDS))}, got {backend!r}")
        x = args[0]
        reason = None
        if not _INSTALLED:
            reason = "triton is not installed"
        elif x.device.type != "cuda" and not (_INTERPRETED and x.device.type == "cpu" and backend == "triton"):
            reason = f"the tensors are on {x.device.type}, not on a CUDA device"
        elif x.is_cuda and _library.is_too_old(x.device):
            needed = _library.version_text(_library.MINIMUM_CAPABILITY)
            reason = f"the kernels need a GPU of compute capability {needed}, {x.device} is older"
        elif x.dtype not in DTYPES:
            reason = f"the kernels take float32, float16 and bfloat16, not {x.dtype}"
        elif self.reasons is not None:
            reason = self.reasons(*args)
        if reason is not None and backend == "triton":
            raise NotImplementedError(f"backend='triton' can't serve {self.name}: {reason}")
        return reason is None

    @property
    def kernels(self) -> Any:
        """The module with the kernels; needs Triton."""
        if self._kernels is None:
            self._kernels = importlib.import_module(f"visionattn.ops.triton.{self.name}")
        return self._kernels

    def _run_forward(self, *args: Any) -> Outputs:
        if args[0].numel() == 0:
            return tuple(x.zero_() for x in self.fake(*args))
        with _on_device_of(args[0]):
            return self.kernels.forward(*args)

    def _run_backward(self, *args: Any) -> Outputs:
        if args[1].numel() == 0:
            return tuple(x.zero_() for x in self._fake_gradients(*args))
        with _on_device_of(args[0]):
            gradients = self.kernels.backward(*args)
        return tuple(args[0].new_empty(0) if gradient is None else gradient for gradient in gradients)

    def _has_gradient(self, args: Sequence[Any]) -> list[bool]:
        return [x is not None and i not in self.constant for i, x in enumerate(args[: self.tensors])]

    def _fake_gradients(self, grad: Tensor, *args: Any) -> Outputs:
        has = self._has_gradient(args)
        return tuple(torch.empty_like(x) if given else grad.new_empty(0) for x, given in zip(args, has))

    def _setup_context(self, ctx: Any, inputs: tuple, output: Any) -> None:
        saved = _as_tuple(output)[self.first_saved :]
        ctx.rest = inputs[self.tensors :]
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*inputs[: self.tensors], *saved)

    def _forward_with_context(self, ctx: Any, *args: Any) -> Tensor:
        outputs = self._run_forward(*args)
        self._setup_context(ctx, args, outputs)
        return outputs[0]

    def _gradients(self, ctx: Any, grad: Optional[Tensor], *_: None) -> tuple:
        saved = ctx.saved_tensors
        tensors, saved = saved[: self.tensors], saved[self.tensors :]
        gradients: Sequence[Optional[Tensor]] = [None] * self.tensors
        if grad is not None:
            args = (grad, *tensors, *ctx.rest, *saved)
            # Only a backward pass that is itself recorded or traced needs the dispatcher.
            plain = not torch.is_grad_enabled() and not torch.compiler.is_compiling() and _is_plain(args)
            gradients = self._run_backward(*args) if plain else _as_tuple(self.backward(*args))
        gradients = [x if given else None for x, given in zip(gradients, self._has_gradient(tensors))]
        return (*gradients, *(None,) * len(ctx.rest))


def _first(outputs: Any) -> Tensor:
    return outputs if isinstance(outputs, Tensor) else outputs[0]


def _as_tuple(outputs: Any) -> Outputs:
    return (outputs,) if isinstance(outputs, Tensor) else tuple(outputs)


def _is_plain(args: Sequence[Any]) -> bool:
    """Whether a call may skip the dispatcher: nobody watches, and no tensor is of a subclass or a transform."""
    for x in args:  # a loop, cheaper than a generator
        if isinstance(x, Tensor) and type(x) is not Tensor and type(x) is not torch.nn.Parameter:
            return False
    return (
        torch._C._len_torch_dispatch_stack() == 0
        and torch._C._functorch.peek_interpreter_stack() is None
        and torch._C._get_tracing_state() is None
        and torch.autograd.forward_ad._current_level < 0
    )


class _on_device_of:  # a context manager, cheaper than one made by contextlib
    """Triton launches on the current device: makes it that of `x`."""

    __slots__ = ("guard",)

    def __init__(self, x: Tensor):
        other = x.device.type == "cuda" and x.device.index != torch.cuda.current_device()
        self.guard = torch.cuda.device(x.device) if other else None

    def __enter__(self) -> None:
        if self.guard is not None:
            self.guard.__enter__()

    def __exit__(self, *error: Any) -> None:
        if self.guard is not None:
            self.guard.__exit__(*error)
