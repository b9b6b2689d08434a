"""Linear attentions against recorded results of the released code, and what the operators promise besides."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.ops.cases import relative_error
from visionattn import ops
from visionattn.ops import reference

FIXTURES = Path(__file__).parent.parent / "fixtures"
ROTARY = {"rala": ops.rank_augmented_linear_attention, "mala": ops.magnitude_aware_linear_attention}
BACKENDS = ("auto", "reference")


def load(path: Path) -> dict[str, Tensor]:
    return {name: torch.from_numpy(array) for name, array in np.load(path).items()}


def cores(pattern: str) -> list:
    paths = sorted(FIXTURES.glob(pattern))
    assert paths, pattern
    return [pytest.param(path, id=f"{path.parent.name}-{path.stem}") for path in paths]


def check(out: Tensor, data: dict[str, Tensor], leaves: dict[str, Tensor]) -> None:
    assert relative_error(out, data["out"]) < 1e-10
    grads = torch.autograd.grad(out, list(leaves.values()), data["grad_out"])
    for name, grad in zip(leaves, grads):
        assert relative_error(grad, data[f"grad_{name}"]) < 1e-10, name


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("path", cores("[rm]ala/op_?ala_core_*.npz"))
def test_rotary_fixture(path: Path, backend: str):
    data = load(path)
    leaves = {name: data[name].requires_grad_() for name in "qkv"}
    out = ROTARY[path.parent.name](*leaves.values(), data["angle"], data["hw"].tolist(), backend=backend)
    check(out, data, leaves)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("path", cores("l2vit/op_linattn_core_*.npz"))
def test_clamped_fixture(path: Path, backend: str):
    data = load(path)
    leaves = {name: data[name].requires_grad_() for name in ("q", "k", "v", "temperature")}
    *qkv, temperature = leaves.values()
    check(ops.clamped_linear_attention(*qkv, temperature.flatten(), backend=backend), data, leaves)


@pytest.mark.parametrize("backend", BACKENDS)
def test_elu_fixture(backend: str):
    data = load(FIXTURES / "linear_attention" / "op_linear_attention_elu.npz")
    leaves = {name: data[name].requires_grad_() for name in "qkv"}
    query, key, value = (x.transpose(1, 2) for x in leaves.values())
    out = ops.linear_attention(query, key, value, eps=data["eps"].item(), backend=backend)
    check(out.transpose(1, 2), data, leaves)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_rotary_tables(dtype: torch.dtype):
    data = load(FIXTURES / "rala" / "op_rope.npz")
    short = "f32" if dtype == torch.float32 else "f64"
    sizes = [(3, 5), (7, 4)] if dtype == torch.float32 else [(3, 5)]
    for dim in (32, 64, 96):
        for height, width in sizes:
            sin, cos = reference.rotary_tables(data[f"angle_d{dim}"].to(dtype), height, width)
            limit = 1e-6 if dtype == torch.float32 else 1e-12
            for name, table in (("sin", sin), ("cos", cos)):
                expected = data[f"{name}_d{dim}_{height}x{width}_{short}"]
                assert table.dtype == expected.dtype
                torch.testing.assert_close(table, expected, rtol=0, atol=limit)
    sin, cos = reference.rotary_tables(data["angle_d32"].double(), 3, 5)
    torch.testing.assert_close(reference.rotate(data["x"], sin, cos), data["rotated"], rtol=1e-10, atol=1e-12)


def attend(kind: str, query: Tensor, key: Tensor, value: Tensor, **options) -> Tensor:
    tokens, dim = query.shape[2:]
    if kind == "clamped":
        scale = torch.full((query.shape[1],), 0.3, dtype=torch.float32, device=query.device)
        return ops.clamped_linear_attention(query, key, value, scale, **options)
    if kind in ROTARY:
        angle = torch.linspace(1, 0.1, dim // 2, device=query.device)
        return ROTARY[kind](query, key, value, angle, (tokens // 4, 4), **options)
    return ops.linear_attention(query, key, value, kind, **options)


each_kind = pytest.mark.parametrize("kind", ["elu", "relu", "identity", "clamped", *ROTARY])


@each_kind
def test_gradcheck(kind: str):
    qkv = [torch.rand(1, 2, 8, 4, dtype=torch.float64, requires_grad=True) for _ in range(3)]
    assert torch.autograd.gradcheck(lambda *x: attend(kind, *x), qkv, fast_mode=True)


@each_kind
@pytest.mark.parametrize(("dtype", "limit"), [(torch.float16, 1e-3), (torch.bfloat16, 4e-3)], ids=str)
def test_sums_are_wide_whatever_the_inputs(kind: str, dtype: torch.dtype, limit: float):
    query, key, value = (torch.rand(1, 1, 56 * 56, 32).mul(8).to(dtype) for _ in range(3))
    expected = attend(kind, query.double(), key.double(), value.double())
    for enabled in (False, True):
        with torch.autocast("cpu", dtype, enabled=enabled):
            out = attend(kind, query, key, value)
        assert out.dtype == dtype
        assert relative_error(out, expected) < limit


@each_kind
def test_layouts_and_empty_batch(kind: str):
    packed = torch.randn(2, 12, 3, 2, 8)
    query, key, value = packed.permute(2, 0, 3, 1, 4).unbind(0)
    expected = attend(kind, query.contiguous(), key.contiguous(), value.contiguous())
    torch.testing.assert_close(attend(kind, query, key, value), expected)
    assert attend(kind, query[:0], key[:0], value[:0]).shape == (0, 2, 12, 8)


@each_kind
def test_compiles_and_exports(kind: str):
    class Attend(torch.nn.Module):
        def forward(self, qkv: Tensor) -> Tensor:
            return attend(kind, *qkv.unbind(0))

    module, x = Attend(), torch.randn(3, 2, 2, 12, 8)
    torch.compiler.reset()
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), module(x))
    program = torch.export.export(module, (x,), dynamic_shapes=({1: torch.export.Dim("batch", min=1, max=64)},))
    more = torch.randn(3, 5, 2, 12, 8)
    torch.testing.assert_close(program.module()(more), module(more))


def test_other_numbers_of_keys():
    query, key, value = (torch.randn(1, 2, n, d) for n, d in ((5, 8), (9, 8), (9, 3)))
    assert ops.linear_attention(query, key, value).shape == (1, 2, 5, 3)
    assert ops.clamped_linear_attention(query, key, value, torch.ones(2)).shape == (1, 2, 5, 3)


def t(*shape: int, dtype: torch.dtype = torch.float32, device: str = "cpu") -> Tensor:
    return torch.zeros(*shape, dtype=dtype, device=device)


X = t(1, 2, 12, 8)
WRONG = {
    "rank": (lambda: ops.linear_attention(t(2, 12, 8), X, X), ValueError, "query must have 4 axes, got 3"),
    "integers": (lambda: ops.linear_attention(X.long(), X, X), TypeError, "query must be float16"),
    "no tokens": (lambda: ops.linear_attention(X[:, :, :0], X, X), ValueError, "query must have at least one head"),
    "no keys": (lambda: ops.linear_attention(X, X[:, :, :0], X[:, :, :0]), ValueError, "value must have at least one"),
    "dtypes": (lambda: ops.linear_attention(X, X.half(), X), TypeError, "key must have the dtype of query"),
    "heads": (lambda: ops.linear_attention(X, t(1, 3, 12, 8), X), ValueError, "key must have shape"),
    "value tokens": (lambda: ops.linear_attention(X, X, t(1, 2, 11, 8)), ValueError, "value must have shape"),
    "feature map": (lambda: ops.linear_attention(X, X, X, "softmax"), ValueError, "feature_map must be one of 'elu'"),
    "backend": (lambda: ops.linear_attention(X, X, X, backend="cuda"), ValueError, "backend must be one of 'auto'"),
    "triton on a CPU": (
        lambda: ops.linear_attention(X, X, X, backend="triton"),
        NotImplementedError,
        "can't serve linear_attention",
    ),
    "scale": (lambda: ops.clamped_linear_attention(X, X, X, t(3)), ValueError, "scale must have shape"),
    "scale elsewhere": (
        lambda: ops.clamped_linear_attention(X, X, X, t(2, device="meta")),
        ValueError,
        "scale must be on the device of query",
    ),
    "keys of RALA": (lambda: ROTARY["rala"](X, t(1, 2, 9, 8), X), ValueError, "key must have shape"),
    "angle without size": (lambda: ROTARY["rala"](X, X, X, t(4)), ValueError, "size must be the height and width"),
    "size": (lambda: ROTARY["rala"](X, X, X, t(4), (3, 5)), ValueError, "size must be that of a map of 12 tokens"),
    "size of floats": (lambda: ROTARY["rala"](X, X, X, t(4), (3.0, 4)), TypeError, "size must be"),
    "angles": (lambda: ROTARY["mala"](X, X, X, t(8), (3, 4)), ValueError, "angle must have shape"),
    "half angles": (
        lambda: ROTARY["mala"](X, X, X, t(4).half(), (3, 4)),
        TypeError,
        "angle must be float32 or float64, half precision confuses positions",
    ),
    "head_dim": (lambda: ROTARY["mala"](*[t(1, 2, 12, 6)] * 3, t(3), (3, 4)), ValueError, "multiple of 4, got 6"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_arguments(name: str):
    call, error, message = WRONG[name]
    with pytest.raises(error, match=message):
        call()
