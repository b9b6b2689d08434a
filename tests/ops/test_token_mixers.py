"""Operators of token mixers against recorded results of the released code, and what they promise besides."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.ops.cases import relative_error
from tests.parity import FIXTURES
from visionattn import ops
from visionattn.ops import reference


def load(name: str) -> dict[str, Tensor]:
    arrays = np.load(FIXTURES / "linear_attention" / f"op_{name}.npz")
    return {key: torch.from_numpy(np.array(x)) for key, x in arrays.items()}


def check(out: Tensor, data: dict[str, Tensor], leaves: dict[str, Tensor]) -> None:
    assert relative_error(out, data["out"]) < 1e-10
    grads = torch.autograd.grad(out, list(leaves.values()), data["grad_out"])
    for name, grad in zip(leaves, grads):
        assert relative_error(grad, data[f"grad_{name}"]) < 1e-10, name


def joined(out: Tensor) -> Tensor:
    """Heads side by side: `[B, heads, N, d]` to `[B, N, heads * d]`."""
    return out.transpose(1, 2).flatten(2)


def test_flow_attention_of_the_vision_model():
    data = load("flow_attention_vision_core")
    leaves = {name: data[name].requires_grad_() for name in "qkv"}
    check(joined(ops.flow_attention(*leaves.values())), data, leaves)


@pytest.mark.parametrize(
    ("name", "function"),
    [
        ("flow_attention_self", lambda q, k, v: ops.flow_attention(q, k, v, flow_eps=0.0)),
        ("flow_attention_causal", ops.causal_flow_attention),
        ("mobile_attention", ops.mobile_attention),
    ],
)
def test_stand_alone_modules(name: str, function):
    data = load(name)
    heads = int(data["num_heads"])
    leaves = {key: data[key].requires_grad_() for key in ("queries", "keys", "values")}
    qkv = [x.unflatten(2, (heads, -1)).transpose(1, 2) for x in leaves.values()]
    check(joined(function(*qkv)), data, leaves)


@pytest.mark.parametrize(
    ("name", "options"),
    [("softmax", {}), ("exp", {"activation": "exp"}), ("softmax_skip", {"skip": True})],
)
def test_hedgehog(name: str, options: dict):
    data = load(f"hedgehog_{name}")
    leaves = {key: data[key].requires_grad_() for key in ("q", "k", "v", "weight_q", "weight_k")}
    features = [ops.hedgehog_features(leaves[x], leaves[f"weight_{x}"], **options) for x in "qk"]
    for x, feature in zip("qk", features):
        assert relative_error(feature, data[f"phi_{x}"]) < 1e-10
    loss = ops.hedgehog_distillation_loss(leaves["q"], leaves["k"], *features)
    assert relative_error(loss, data["distill_xent"]) < 1e-10
    grads = torch.autograd.grad(loss, (leaves["weight_q"], leaves["weight_k"]), retain_graph=True)
    for x, grad in zip("qk", grads):
        assert relative_error(grad, data[f"distill_grad_weight_{x}"]) < 1e-10
    check(ops.hedgehog_attention(*features, leaves["v"]), data, leaves)


def test_hedgehog_with_one_map_for_all_heads():
    data = load("hedgehog_joint")
    leaves = {name: data[name].requires_grad_() for name in "qkv"}
    features = [ops.hedgehog_features(leaves[x], data[f"w{x}"].T[None], data[f"b{x}"][None], "joint") for x in "qk"]
    assert relative_error(features[0], data["phi_q"]) < 1e-10
    check(ops.hedgehog_attention(*features, leaves["v"]), data, leaves)


def test_hedgehog_of_one_side():
    x, weight = torch.randn(2, 3, 5, 8), torch.randn(3, 8, 4)
    both = ops.hedgehog_features(x, weight)
    assert torch.equal(ops.hedgehog_features(x, weight, two_sided=False), both[..., :4])


@pytest.mark.parametrize("name", ["per_head_dim", "per_channel"])
def test_lit(name: str):
    data = load(f"lit_linear_attention_{name}")
    leaves = {key: data[key].requires_grad_() for key in ("q", "k", "v", "dwc_weight", "dwc_bias")}
    q, k, v, weight, bias = leaves.values()
    size = (int(data["H"]), int(data["W"]))
    assert relative_error(joined(ops.linear_attention(q, k, v, "relu")), data["out_without_dwc"]) < 1e-10
    check(joined(ops.lit_attention(q, k, v, weight, bias, size)), data, leaves)


def test_discs():
    data = load("clear_masks")
    names = [name for name in data if name.startswith("local") and not name.endswith("shape")]
    assert names
    for name in names:
        height, width, prefix, radius = map(int, re.fullmatch(r"local_h(\d+)_w(\d+)_t(\d+)_r(\d+)", name).groups())
        columns = int(data[f"{name}__shape"][1])
        mask = np.unpackbits(data[name].numpy(), axis=1)[:, :columns].astype(bool)
        assert mask[:prefix].all()
        assert mask[:, :prefix].all()
        disc = reference.disc_mask(height, width, radius, torch.device("cpu"))
        np.testing.assert_array_equal(disc.numpy(), mask[prefix:, prefix:])


@pytest.mark.parametrize("radius", [1, 2, 3, 4, 7, 8, 16])
def test_points_of_a_disc(radius: int):
    expected = {1: 1, 2: 9, 3: 25, 4: 45, 7: 145, 8: 193, 16: 793}[radius]
    side = 2 * radius - 1
    disc = reference.disc_mask(side, side, radius, torch.device("cpu"))
    assert disc[side * side // 2].sum() == expected


@pytest.mark.parametrize("backend", ["auto", "reference"])
@pytest.mark.parametrize("name", ["local", "down"])
def test_circular(name: str, backend: str):
    data = load(f"clear_{name}_t0")
    leaves = {key: data[key].requires_grad_() for key in "qkv"}
    weight = None
    if name == "down":
        leaves["spatial_weight"] = data["spatial_weight"].requires_grad_()
        weight = leaves["spatial_weight"].view(4, 4)
    radius, size = int(data["window"]), (int(data["H"]), int(data["W"]))
    q, k, v = (leaves[key] for key in "qkv")
    check(joined(ops.circular_attention(q, k, v, radius, size, pool_weight=weight, backend=backend)), data, leaves)


@pytest.mark.parametrize(
    ("height", "width", "radius", "prefix", "pool"),
    [(40, 33, 3, 2, 0), (24, 36, 8, 0, 4), (37, 50, 5.5, 1, 0), (64, 24, 9, 0, 2)],
)
def test_tiles_of_large_maps(height: int, width: int, radius: float, prefix: int, pool: int):
    tokens = prefix + height * width
    qkv = [torch.randn(1, 2, tokens, 8, dtype=torch.float64, requires_grad=True) for _ in range(3)]
    options = dict(pool_weight=torch.rand(pool, pool, dtype=torch.float64) if pool else None)

    def results(backend: str) -> list[Tensor]:
        out = ops.circular_attention(*qkv, radius, (height, width), prefix, backend=backend, **options)
        return [out, *torch.autograd.grad(out.square().sum(), qkv)]

    for actual, expected in zip(results("auto"), results("reference")):
        assert relative_error(actual, expected) < 1e-12


def test_proportional_scale():
    assert ops.proportional_scale(4608, 64) == pytest.approx(64**-0.5)
    assert ops.proportional_scale(4608**2, 64) == pytest.approx((2 / 64) ** 0.5)


SIZE = (4, 5)
MIXERS = {
    "flow": ops.flow_attention,
    "flow causal": ops.causal_flow_attention,
    "mobile": ops.mobile_attention,
    "hedgehog": lambda q, k, v: ops.hedgehog_attention(
        *(ops.hedgehog_features(x, torch.eye(8)[None]) for x in (q, k)), v
    ),
    "lit": lambda q, k, v: ops.lit_attention(q, k, v, torch.ones(8, 1, 3, 3, dtype=v.dtype), None, SIZE),
    "focused": lambda q, k, v: ops.focused_linear_attention(
        q, k, v, torch.ones(16), torch.ones(8, 1, 3, 3, dtype=v.dtype), None, SIZE
    ),
    "circular": lambda q, k, v: ops.circular_attention(q, k, v, 2, SIZE),
}
each_mixer = pytest.mark.parametrize("name", MIXERS)


@each_mixer
@pytest.mark.parametrize(("dtype", "limit"), [(torch.float16, 2e-3), (torch.bfloat16, 1e-2)], ids=str)
def test_half_precision(name: str, dtype: torch.dtype, limit: float):
    qkv = [torch.randn(2, 2, 20, 8).to(dtype) for _ in range(3)]
    out = MIXERS[name](*qkv)
    assert out.dtype == dtype
    assert relative_error(out, MIXERS[name](*(x.double() for x in qkv))) < limit


@each_mixer
def test_layouts_and_empty_batch(name: str):
    query, key, value = torch.randn(2, 20, 3, 2, 8).permute(2, 0, 3, 1, 4).unbind(0)
    expected = MIXERS[name](query.contiguous(), key.contiguous(), value.contiguous())
    torch.testing.assert_close(MIXERS[name](query, key, value), expected)
    assert MIXERS[name](query[:0], key[:0], value[:0]).shape == (0, 2, 20, 8)


@each_mixer
def test_compiles_whole(name: str):
    qkv = torch.randn(3, 2, 2, 20, 8)
    torch.compiler.reset()
    compiled = torch.compile(lambda x: MIXERS[name](*x.unbind(0)), fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(qkv), MIXERS[name](*qkv))


X, W = torch.zeros(1, 2, 12, 8), torch.zeros(8, 1, 3, 3)
WRONG = {
    "dtypes": (lambda: ops.flow_attention(X, X.half(), X), TypeError, "key must have the dtype of query"),
    "causal tokens": (lambda: ops.causal_flow_attention(X, X[:, :, :5], X), ValueError, "key must have shape"),
    "mobile tokens": (lambda: ops.mobile_attention(X, X[:, :, :5], X), ValueError, "key must have shape"),
    "flow backend": (lambda: ops.flow_attention(X, X, X, backend="x"), ValueError, "backend must be one of"),
    "map": (lambda: ops.hedgehog_features(X, torch.zeros(3, 8, 4)), ValueError, "weight must have shape"),
    "activation": (
        lambda: ops.hedgehog_features(X, torch.zeros(2, 8, 4), activation="relu"),
        ValueError,
        "activation must be one of 'softmax'",
    ),
    "skip": (lambda: ops.hedgehog_features(X, torch.zeros(2, 8, 4), skip=True), ValueError, "skip needs features"),
    "filters": (lambda: ops.lit_attention(X, X, X, W[:5], None, (3, 4)), ValueError, "weight must have shape"),
    "even filters": (lambda: ops.lit_attention(X, X, X, W[..., :2], None, (3, 4)), ValueError, "an odd K"),
    "grid": (lambda: ops.lit_attention(X, X, X, W, None, (3, 5)), ValueError, "size must be that of a grid of 12"),
    "power": (lambda: ops.focused_features(X, torch.ones(16), 0), ValueError, "power must be an int"),
    "scale": (lambda: ops.focused_features(X, torch.ones(8)), ValueError, "scale must have shape"),
    "radius": (lambda: ops.circular_attention(X, X, X, 0, (3, 4)), ValueError, "radius must be positive"),
    "prefix": (lambda: ops.circular_attention(X, X, X, 2, (3, 4), -1), ValueError, "num_prefix must be an int"),
    "pool": (
        lambda: ops.circular_attention(X, X, X, 2, (3, 4), pool_weight=torch.ones(2, 2)),
        ValueError,
        "pool_weight must divide the grid of 3 x 4",
    ),
    "triton": (
        lambda: ops.circular_attention(X, X, X, 2, (3, 4), backend="triton"),
        NotImplementedError,
        "can't serve circular_attention",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_arguments(name: str):
    call, error, message = WRONG[name]
    with pytest.raises(error, match=message):
        call()
