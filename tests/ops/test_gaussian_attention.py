"""SOFT's operators against recorded results of the released code, and what they promise besides."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.ops.cases import relative_error
from tests.parity import FIXTURES
from visionattn import ops
from visionattn.layers import SoftmaxFreeAttention
from visionattn.ops import reference


def load(name: str) -> dict[str, Tensor]:
    return {key: torch.from_numpy(np.array(x)) for key, x in np.load(FIXTURES / "soft" / f"op_{name}.npz").items()}


def check_gradients(out: Tensor, grad: Tensor, leaves: dict[str, Tensor], data: dict[str, Tensor]) -> None:
    grads = torch.autograd.grad(out, list(leaves.values()), grad, retain_graph=True)
    for (name, _), actual in zip(leaves.items(), grads):
        assert relative_error(actual, data[name]) < 1e-10, name


def test_squared_distance_and_kernel():
    data = load("gaussian_subtraction")
    query, key = data["query"].requires_grad_(), data["key"].mT.requires_grad_()
    distance, kernel = reference.squared_distance(query, key), ops.gaussian_kernel(query, key)
    assert relative_error(distance, data["distance"]) < 1e-10
    assert relative_error(kernel, data["kernel"]) < 1e-10
    data["grad_key"], data["kernel_grad_key"] = data["grad_key"].mT, data["kernel_grad_key"].mT
    check_gradients(distance, data["grad_output"], {"grad_query": query, "grad_key": key}, data)
    check_gradients(kernel, data["grad_output"], {"kernel_grad_query": query, "kernel_grad_key": key}, data)


@pytest.mark.parametrize("name", ["damped_easy", "damped_mid", "damped_hard", "global_easy", "global_mid"])
def test_newton_fixture(name: str):
    data = load(f"newton_{name}")
    matrix = data["matrix"].requires_grad_()
    method = name.partition("_")[0]
    inverse = ops.newton_inverse(matrix, method)
    assert relative_error(inverse, data["inverse"]) < 1e-10
    check_gradients(inverse, data["grad_output"], {"grad_matrix": matrix}, data)
    for steps in (0, 1, 5):
        if f"iter_{steps}" in data:
            assert relative_error(ops.newton_inverse(matrix, method, steps), data[f"iter_{steps}"]) < 1e-10
    if "normalized" in data:
        normalized = ops.newton_inverse(matrix, method, normalize=True)
        assert relative_error(normalized, data["normalized"]) < 1e-10
        check_gradients(normalized, data["grad_output"], {"normalized_grad_matrix": matrix}, data)


def test_newton_is_a_spectral_filter():
    matrix = load("newton_damped_hard")["matrix"]
    damped, start = reference.newton_inverse.__globals__["damped_start"](matrix)
    values, vectors = torch.linalg.eigh(damped)
    filtered = (1 - (1 - start[..., 0] * values.square()).pow(2**20)) / values
    expected = vectors @ torch.diag_embed(filtered) @ vectors.mT
    assert relative_error(ops.newton_inverse(matrix), expected) < 1e-9


@pytest.mark.parametrize("name", ["plain_r2", "plain_r4", "norm_r2"])
def test_layer_fixture(name: str):
    data = load(f"attention_{name}")
    _, heads, _, dim = data["Q"].shape
    height, width, ratio, kernel = (int(data[key]) for key in ("H", "W", "ratio", "conv_size"))
    normalized = name.startswith("norm")
    layer = SoftmaxFreeAttention(
        heads * dim, heads, ratio, kernel, "global" if normalized else "damped", normalized, dtype=torch.float64
    )
    names = {
        "landmark.weight": "Qlandmark_op.weight",
        "landmark_norm.weight": "Qnorm_act.0.weight",
        "landmark_norm.bias": "Qnorm_act.0.bias",
        "local.weight": "conv.weight",
    }
    layer.load_state_dict({own: data[f"param:{other}"].double() for own, other in names.items()}, strict=False)
    # The recorded kernel has no projections.
    for part, value in (("q", torch.nn.Identity()), ("v", torch.nn.Identity()), ("proj", torch.nn.Identity())):
        setattr(layer, part, value)

    def as_map(x: Tensor) -> Tensor:
        return x.transpose(1, 2).reshape(x.shape[0], height, width, heads * dim)

    query, value = data["Q"].requires_grad_(), data["V"].requires_grad_()
    layer.q.forward = lambda x: as_map(query)
    layer.v.forward = lambda x: as_map(value)
    out = layer(as_map(query))
    assert relative_error(out, as_map(data["out"])) < 1e-10
    leaves = {"grad_Q": query, "grad_V": value}
    leaves.update({f"grad:{other}": layer.get_parameter(own) for own, other in names.items()})
    check_gradients(out, as_map(data["grad_out"]), leaves, data)


@pytest.mark.parametrize(("method", "normalize"), [("damped", False), ("global", True)])
def test_attention(method: str, normalize: bool):
    query, landmarks, value = (torch.randn(2, 3, n, 8, dtype=torch.float64, requires_grad=True) for n in (20, 6, 20))
    out = ops.gaussian_attention(query, landmarks, value, method, normalize=normalize)
    expected = reference.gaussian_attention(query, landmarks, value, method, 20, normalize)
    torch.testing.assert_close(out, expected)
    kernel = ops.gaussian_kernel(query, landmarks)
    inverse = ops.newton_inverse(ops.gaussian_kernel(landmarks, landmarks), method, normalize=normalize)
    torch.testing.assert_close(out, (kernel @ inverse) @ (kernel.mT @ value))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_computes_in_float32(dtype: torch.dtype):
    query, landmarks, value = (torch.randn(2, 3, n, 32).mul(0.4).to(dtype) for n in (60, 16, 60))
    expected = ops.gaussian_attention(query.double(), landmarks.double(), value.double())
    for enabled in (False, True):
        with torch.autocast("cpu", dtype, enabled=enabled):
            out = ops.gaussian_attention(query, landmarks, value)
            matrix = ops.gaussian_kernel(landmarks.float(), landmarks.float())
            assert ops.newton_inverse(matrix).dtype == torch.float32
        assert out.dtype == dtype
        assert relative_error(out, expected) < (1e-3 if dtype == torch.float16 else 5e-3)


@pytest.mark.parametrize("method", ["damped", "global"])
def test_compiles_and_exports(method: str):
    class Invert(torch.nn.Module):
        def forward(self, points: Tensor) -> Tensor:
            return ops.newton_inverse(ops.gaussian_kernel(points, points), method, normalize=True)

    module, x = Invert(), torch.randn(2, 3, 7, 8, dtype=torch.float64)
    torch.compiler.reset()
    torch.testing.assert_close(torch.compile(module, fullgraph=True, backend="aot_eager")(x), module(x))
    program = torch.export.export(module, (x,), dynamic_shapes=({0: torch.export.Dim("batch", min=1, max=64)},))
    more = torch.randn(5, 3, 7, 8, dtype=torch.float64)
    torch.testing.assert_close(program.module()(more), module(more))
    assert ops.newton_inverse(torch.zeros(0, 3, 7, 7), method).shape == (0, 3, 7, 7)


X, M = torch.zeros(1, 2, 6, 4), torch.zeros(2, 5, 5)
WRONG = {
    "not square": (lambda: ops.newton_inverse(M[:, :4]), ValueError, "matrix must have shape"),
    "integers": (lambda: ops.newton_inverse(M.long()), TypeError, "matrix must be float16"),
    "method": (lambda: ops.newton_inverse(M, "exact"), ValueError, "method must be one of 'damped', 'global'"),
    "iterations": (lambda: ops.newton_inverse(M, max_iter=-1), ValueError, "max_iter must be at least 0"),
    "half an iteration": (lambda: ops.newton_inverse(M, max_iter=0.5), TypeError, "max_iter must be an int"),
    "backend": (lambda: ops.newton_inverse(M, backend="cuda"), ValueError, "backend must be one of"),
    "triton": (lambda: ops.newton_inverse(M, backend="triton"), NotImplementedError, "can't serve newton_inverse"),
    "rank": (lambda: ops.gaussian_attention(X[0], X, X), ValueError, "query must have 4 axes"),
    "landmarks": (lambda: ops.gaussian_attention(X, X[..., :3], X), ValueError, "landmarks must have shape"),
    "value": (lambda: ops.gaussian_attention(X, X, X[:, :, :3]), ValueError, "value must have shape"),
    "dtypes": (lambda: ops.gaussian_attention(X, X.half(), X), TypeError, "landmarks must have the dtype"),
    "key": (lambda: ops.gaussian_kernel(X, X[..., :2]), ValueError, "key must have shape"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_arguments(name: str):
    call, error, message = WRONG[name]
    with pytest.raises(error, match=message):
        call()
