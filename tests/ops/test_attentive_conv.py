"""Attentive convolution against recorded results of the released code, and what the operators promise besides."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.ops.cases import relative_error
from tests.parity import FIXTURES
from visionattn import ops
from visionattn.ops import reference

CONVOLUTIONS = np.load(FIXTURES / "attnet" / "op_dynamic_dwconv.npz")
ATTENTIVE = np.load(FIXTURES / "attnet" / "op_atconv.npz")


def tensors(archive, case: str, *names: str) -> list[torch.Tensor]:
    return [torch.from_numpy(archive[f"{case}/{name}"]) for name in names]


def cases(archive) -> list[str]:
    return sorted({name.partition("/")[0] for name in archive.files})


@pytest.mark.parametrize("backend", ["auto", "reference"])
@pytest.mark.parametrize("case", cases(CONVOLUTIONS))
def test_dynamic_depthwise_conv(case, backend):
    names = ("x", "kernels", "y", "grad_y", "grad_x", "grad_kernels")
    x, kernels, y, grad, grad_x, grad_kernels = tensors(CONVOLUTIONS, case, *names)
    out = ops.dynamic_depthwise_conv(x.requires_grad_(), kernels.requires_grad_(), backend=backend)
    assert relative_error(out, y) < 1e-10
    for actual, expected in zip(torch.autograd.grad(out, (x, kernels), grad), (grad_x, grad_kernels)):
        assert relative_error(actual, expected) < 1e-10


@pytest.mark.parametrize("case", cases(ATTENTIVE))
def test_pooled_context_and_kernels(case):
    x, weight, bias, pooled, kernels = tensors(
        ATTENTIVE, case, "x", "param/kernel_proj.weight", "param/kernel_proj.bias", "pooled", "kernels"
    )
    bands = pooled.shape[2]
    context = torch.einsum("oi,bin->bon", weight[:, :, 0, 0], ops.band_pool(x, bands)) + bias[:, None]
    assert relative_error(context, pooled) < 1e-10
    parameters = tensors(
        ATTENTIVE, case, "param/kernel_gen.weight", "param/kernel_gen.bias", "param/difference_control"
    )
    assert relative_error(ops.attentive_kernels(pooled, *parameters), kernels.flatten(2)) < 1e-10


def test_gradients_by_finite_differences():
    generator = torch.Generator().manual_seed(0)
    shapes = ((2, 2, 3, 4), (2, 2, 9), (9, 9), (9,), (2,))
    value, *others = (torch.randn(s, generator=generator, dtype=torch.float64).requires_grad_() for s in shapes)
    for activation in ("gelu", "gelu_tanh", "silu"):
        assert torch.autograd.gradcheck(lambda *args, a=activation: ops.attentive_conv(*args, a), (value, *others))
    assert torch.autograd.gradcheck(lambda x: ops.band_pool(x, 5), value)


def test_shifted_products_are_the_same_convolution():
    """What an exported program holds in place of the grouped convolution."""

    class Convolve(torch.nn.Module):
        def forward(self, value, kernels):
            return ops.dynamic_depthwise_conv(value, kernels)

    value, kernels = torch.randn(2, 3, 5, 4), torch.randn(2, 3, 3, 5)
    batch = torch.export.Dim("batch", min=1, max=8)
    program = torch.export.export(Convolve(), (value, kernels), dynamic_shapes=({0: batch}, {0: batch}))
    assert not any("conv" in str(node.target) for node in program.graph.nodes)
    value, kernels = torch.randn(3, 3, 5, 4), torch.randn(3, 3, 3, 5)
    torch.testing.assert_close(program.module()(value, kernels), ops.dynamic_depthwise_conv(value, kernels))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_sums_in_float32(dtype):
    generator = torch.Generator().manual_seed(0)
    value = torch.randn(2, 4, 6, 7, generator=generator).to(dtype)
    kernels = torch.randn(2, 4, 3, 3, generator=generator)
    out = ops.dynamic_depthwise_conv(value, kernels)
    assert out.dtype == dtype
    torch.testing.assert_close(out, reference.dynamic_depthwise_conv(value.double(), kernels).to(dtype))
    with torch.autocast("cpu", dtype):
        assert ops.dynamic_depthwise_conv(value.float(), kernels).dtype == dtype
    context = torch.randn(2, 4, 9, generator=generator).to(dtype)
    parameters = [torch.randn(shape, generator=generator) for shape in ((9, 9), 9, 4)]
    assert ops.attentive_kernels(context, *parameters).dtype == torch.float32


def test_empty_batches():
    value = torch.randn(0, 3, 4, 5, requires_grad=True)
    out = ops.attentive_conv(value, ops.band_pool(value, 9), torch.randn(9, 9), torch.randn(9), torch.randn(3))
    assert out.shape == value.shape
    out.sum().backward()
    assert value.grad.shape == value.shape


X, K = torch.zeros(2, 3, 4, 5), torch.zeros(2, 3, 3, 3)
CONTEXT = (torch.zeros(2, 3, 9), torch.zeros(9, 9), torch.zeros(9), torch.zeros(3))


@pytest.mark.parametrize(
    ("function", "arguments", "error", "match"),
    [
        (ops.dynamic_depthwise_conv, (X[0], K), ValueError, "value must have 4 axes, got 3"),
        (ops.dynamic_depthwise_conv, (X.int(), K), TypeError, "value must be float16"),
        (ops.dynamic_depthwise_conv, (X, K[:1]), ValueError, r"kernels must have shape.*\[2, 3, any, any\]"),
        (ops.dynamic_depthwise_conv, (X, K[..., :2]), ValueError, r"kernels must have odd sides, got \[3, 2\]"),
        (ops.dynamic_depthwise_conv, (X[:, :, :0], K), ValueError, "value must have at least one channel and position"),
        (ops.dynamic_depthwise_conv, (X, K.to("meta")), ValueError, "kernels must be on the device of value"),
        (ops.dynamic_depthwise_conv, (X, [1.0]), TypeError, "kernels must be a torch.Tensor, got list"),
        (ops.band_pool, (X, 0), ValueError, "bands must be at least 1, got 0"),
        (ops.band_pool, (X, 2.0), TypeError, "bands must be an int, got float"),
        (ops.attentive_conv, (X, torch.zeros(2, 3, 8), *CONTEXT[1:]), ValueError, r"context must have k \* k entries"),
        (ops.attentive_conv, (X, CONTEXT[0], K, *CONTEXT[2:]), ValueError, r"weight must have shape \[taps, taps\]"),
        (ops.attentive_conv, (X, *CONTEXT[:3], torch.zeros(4)), ValueError, "difference must have shape"),
        (
            ops.attentive_conv,
            (X, *CONTEXT, "relu"),
            ValueError,
            "activation must be one of 'gelu', 'gelu_tanh', 'silu'",
        ),
        (ops.attentive_conv, (X[:1], *CONTEXT), ValueError, "kernels must have shape"),
    ],
)
def test_wrong_arguments(function, arguments, error, match):
    with pytest.raises(error, match=match):
        function(*arguments)


def test_backends():
    with pytest.raises(ValueError, match="backend must be one of 'auto', 'reference', 'triton', got 'cuda'"):
        ops.dynamic_depthwise_conv(X, K, backend="cuda")
    with pytest.raises(NotImplementedError, match="can't serve band_pool"):
        ops.band_pool(X, 9, backend="triton")
