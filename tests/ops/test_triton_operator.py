"""The registration of Triton-backed operators, on an operator whose kernels are plain PyTorch."""

from __future__ import annotations

import sys
import types
from typing import Optional

import pytest
import torch
from torch import Tensor

from visionattn.ops import _triton, reference


def _plain(x: Tensor, scale: Optional[Tensor], power: int) -> Tensor:
    y = x.pow(power)
    return y if scale is None else y * scale


def _forward(x: Tensor, scale: Optional[Tensor], power: int) -> tuple[Tensor, Tensor]:
    return torch.empty_like(x).copy_(_plain(x, scale, power)), x.sum(-1)


def _backward(
    grad: Tensor, x: Tensor, scale: Optional[Tensor], power: int, sums: Tensor
) -> tuple[Tensor, Optional[Tensor]]:
    assert torch.equal(sums, x.sum(-1))
    grad_x = power * x.pow(power - 1) * grad
    return (grad_x, None) if scale is None else (grad_x * scale, (grad * x.pow(power)).sum().reshape(1))


def _fake(x: Tensor, scale: Optional[Tensor], power: int) -> tuple[Tensor, Tensor]:
    return torch.empty_like(x), x.new_empty(x.shape[:-1])


@pytest.fixture(scope="module")
def operator():
    kernels = types.ModuleType("visionattn.ops.triton.scaled_power")
    kernels.forward, kernels.backward = _forward, _backward
    sys.modules[kernels.__name__] = kernels
    reference.scaled_power = _plain

    def reasons(x: Tensor, scale: Optional[Tensor], power: int) -> Optional[str]:
        return "power is above 3" if power > 3 else None

    yield _triton.TritonOperator("scaled_power", "Tensor x, Tensor? scale, int power", _fake, 1, reasons, kept=(1,))
    del reference.scaled_power, sys.modules[kernels.__name__]


@pytest.fixture
def interpreted(monkeypatch):
    monkeypatch.setattr(_triton, "_INTERPRETED", True)


def results(run, x, scale):
    leaves = [x] if scale is None else [x, scale]
    out = run(x, scale, 3)
    return [out, *torch.autograd.grad(out.square().sum(), leaves)]


@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("direct", [False, True])
def test_gradients_are_those_of_the_kernels(operator, interpreted, scaled, direct):
    x = torch.randn(3, 4, requires_grad=True)
    scale = torch.full((1,), 0.5, requires_grad=True) if scaled else None
    run = (lambda *a: operator.forward(*a)[0]) if direct else (lambda *a: operator("triton", *a))
    for actual, expected in zip(results(run, x, scale), results(_plain, x, scale)):
        torch.testing.assert_close(actual, expected)


@pytest.mark.parametrize("requires_grad", [False, True])
def test_opcheck(operator, requires_grad):
    x = torch.randn(3, 4, requires_grad=requires_grad)
    torch.library.opcheck(operator.forward, (x, torch.ones(1, requires_grad=requires_grad), 2))
    with torch.no_grad():
        torch.library.opcheck(operator.backward, (x.detach(), x.detach(), None, 2, x.detach().sum(-1)))


@pytest.mark.parametrize("dynamic", [False, True])
def test_compiles_whole(operator, interpreted, dynamic):
    torch.compiler.reset()
    compiled = torch.compile(lambda *a: operator("triton", *a), fullgraph=True, dynamic=dynamic, backend="aot_eager")
    for size in (4, 5):
        x, scale = torch.randn(size, 3, requires_grad=True), torch.ones(1, requires_grad=True)
        for actual, expected in zip(results(compiled, x, scale), results(_plain, x, scale)):
            torch.testing.assert_close(actual, expected)


def test_autocast_casts_all_but_what_it_keeps(operator, monkeypatch):
    seen = []

    def forward(x: Tensor, scale: Optional[Tensor], power: int) -> tuple[Tensor, Tensor]:
        seen.extend((x.dtype, scale.dtype))
        return _forward(x, scale, power)

    monkeypatch.setattr(operator.kernels, "forward", forward)
    with torch.autocast("cpu", torch.bfloat16):
        assert operator.forward(torch.ones(2, 2), torch.ones(1), 2)[0].dtype == torch.bfloat16
    assert seen == [torch.bfloat16, torch.float32]


def test_empty_input_reaches_no_kernel(operator, interpreted):
    x = torch.zeros(0, 4, requires_grad=True)
    out = operator("triton", x, None, 2)
    (grad,) = torch.autograd.grad(out.sum(), x)
    assert out.shape == grad.shape == (0, 4)


def test_who_serves(operator, monkeypatch):
    x = torch.full((2, 2), 2.0)
    monkeypatch.setattr(operator, "_kernels", None)  # a call would fail
    for backend in ("auto", "reference"):
        torch.testing.assert_close(operator(backend, x, None, 2), x.square())
    with pytest.raises(NotImplementedError, match=r"can't serve scaled_power: .* on cpu, not on a CUDA device"):
        operator("triton", x, None, 2)
    with pytest.raises(ValueError, match="backend must be one of 'auto', 'reference', 'triton', got 'cuda'"):
        operator("cuda", x, None, 2)
    monkeypatch.setattr(_triton, "_INTERPRETED", True)
    for wrong, message in (((x.double(), None, 2), "float64"), ((x, None, 4), "power is above 3")):
        with pytest.raises(NotImplementedError, match=message):
            operator("triton", *wrong)


def test_no_gradient_of_the_gradient(operator, interpreted):
    x = torch.randn(2, 2, requires_grad=True)
    (grad,) = torch.autograd.grad(operator("triton", x, None, 2).sum(), x, create_graph=True)
    with pytest.raises(NotImplementedError, match="no gradient of its gradient"):
        grad.sum().backward()
