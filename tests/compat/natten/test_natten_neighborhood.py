"""na1d, na2d, na3d: both argument orders, and the tuning arguments."""

import pytest
import torch

from visionattn import ops
from visionattn.compat import natten
from visionattn.compat.natten import functional, v0_14, v0_17, v0_21

CURRENT = (natten, v0_21)
LEGACY = (functional, v0_14, v0_17)


def _qkv(*spatial: int, heads: int = 2, heads_kv: int = 2, dim: int = 4, requires_grad: bool = False):
    generator = torch.Generator().manual_seed(sum(spatial))
    return tuple(
        torch.randn(2, *spatial, h, dim, dtype=torch.float64, generator=generator).requires_grad_(requires_grad)
        for h in (heads, heads_kv, heads_kv)
    )


@pytest.mark.parametrize("module", [*CURRENT, *LEGACY], ids=lambda m: m.__name__)
@pytest.mark.parametrize("name", ["na1d_causal_stride", "na2d_k7_rpb", "na3d_gna"])
def test_recorded_values_and_gradients(recorded, assert_same, module, name):
    case = recorded(f"op_{name}")
    inputs = {key: case[key].requires_grad_() for key in ("q", "k", "v", "rpb") if key in case}
    settings = {key: case[key] for key in ("kernel_size", "stride", "dilation", "is_causal")}
    out, lse = getattr(module, name[:4])(
        inputs["q"], inputs["k"], inputs["v"], **settings, scale=case["scale"].item(), rpb=inputs.get("rpb"),
        return_lse=True,
    )  # fmt: skip
    out.backward(case["grad_out"])
    assert_same(out.detach(), case["out"])
    assert_same(lse.detach(), case["lse"])
    for key, x in inputs.items():
        assert_same(x.grad, case[f"d_{key}"])


# From NATTEN's test matrix, cut to small maps: spatial, kernel, stride, dilation, causal.
CASES = [
    ((125,), 17, 3, 7, False),
    ((32,), 32, 32, 1, True),
    ((19, 29), (8, 8), 1, (2, 3), (False, True)),
    ((5, 25), (5, 16), (1, 16), 1, False),
    ((12, 10), (7, 3), (2, 3), (1, 3), (True, False)),
    ((8, 10, 10), (7, 3, 3), (5, 1, 1), (1, 2, 3), False),
    ((6, 6, 7), (3, 3, 2), (2, 3, 2), (2, 2, 2), (True, False, True)),
]


@pytest.mark.parametrize(("spatial", "kernel", "stride", "dilation", "causal"), CASES)
def test_orders_of_arguments(spatial, kernel, stride, dilation, causal):
    query, key, value = _qkv(*spatial, heads=4, heads_kv=2)
    name = f"na{len(spatial)}d"
    expected = getattr(ops, name)(query, key, value, kernel, stride, dilation, causal)
    for module in CURRENT:
        assert torch.equal(getattr(module, name)(query, key, value, kernel, stride, dilation, causal), expected)
    for module in LEGACY:
        got = getattr(module, name)(query, key, value, kernel, dilation, causal, stride=stride)
        assert torch.equal(got, expected)


def test_one_positional_argument_means_what_its_module_says():
    query, key, value = _qkv(12, 12)
    assert torch.equal(natten.na2d(query, key, value, 3, 2), ops.na2d(query, key, value, kernel_size=3, stride=2))
    assert torch.equal(functional.na2d(query, key, value, 3, 2), ops.na2d(query, key, value, kernel_size=3, dilation=2))


def test_positional_arguments_of_the_other_order_are_refused():
    query, key, value = _qkv(12, 12)
    with pytest.raises(TypeError, match="dilation must be int"):
        natten.na2d(query, key, value, 3, 2, True)  # 0.17: dilation, is_causal
    with pytest.raises(TypeError, match="is_causal must be bool"):
        functional.na2d(query, key, value, 3, 1, 2)  # 0.21: stride, dilation


def test_none_and_zero_mean_the_default():
    query, key, value = _qkv(9)
    expected = ops.na1d(query, key, value, 3)
    assert torch.equal(natten.na1d(query, key, value, 3, None, None, None, 0), expected)
    assert torch.equal(functional.na1d(query, key, value, 3, None, None), expected)


def test_additional_tokens():
    query, key, value = _qkv(9)
    extra = torch.randn(2, 5, 2, 4, dtype=torch.float64)
    expected = ops.na1d(query, key, value, 3, additional_keys=extra, additional_values=2 * extra)
    assert torch.equal(natten.na1d(query, key, value, 3, additional_keys=extra, additional_values=2 * extra), expected)
    assert torch.equal(functional.na1d(query, key, value, 3, 1, False, None, None, extra, 2 * extra), expected)


TUNING = {
    "backend": "cutlass-fna",
    "q_tile_shape": (8, 8),
    "kv_tile_shape": (8, 16),
    "backward_q_tile_shape": (8, 8),
    "backward_kv_tile_shape": (16, 8),
    "backward_kv_splits": (2, 1),
    "backward_use_pt_reduction": True,
    "run_persistent_kernel": False,
    "kernel_schedule": "pp",
    "torch_compile": True,
    "attention_kwargs": {"backend": "hopper-fmha", "q_tile_size": 64, "kv_tile_size": 128},
}


@pytest.mark.parametrize("module", [natten, functional])
def test_tuning_arguments_change_nothing(module):
    query, key, value = _qkv(8, 9)
    expected = ops.na2d(query, key, value, 3)
    assert torch.equal(module.na2d(query, key, value, 3, **TUNING), expected)
    for name, setting in TUNING.items():
        assert torch.equal(module.na2d(query, key, value, 3, **{name: setting}), expected)


WRONG_TUNING = [
    ("backend", "cutlass-fmha", ValueError),
    ("backend", "cuda", ValueError),
    ("q_tile_shape", 64, ValueError),
    ("kv_tile_shape", (8, 8, 8), ValueError),
    ("backward_q_tile_shape", (8, 0), ValueError),
    ("backward_kv_tile_shape", (8, 8.0), ValueError),
    ("backward_kv_splits", -1, ValueError),
    ("backward_kv_splits", True, ValueError),
    ("backward_use_pt_reduction", 1, ValueError),
    ("run_persistent_kernel", "yes", ValueError),
    ("kernel_schedule", "best", ValueError),
    ("torch_compile", 0, ValueError),
    ("attention_kwargs", (1, 2), TypeError),
    ("attention_kwargs", {"q_tile_shape": (8, 8)}, TypeError),
    ("attention_kwargs", {"backend": "hopper-fna"}, ValueError),
]


@pytest.mark.parametrize("module", [natten, functional])
@pytest.mark.parametrize(("name", "setting", "error"), WRONG_TUNING)
def test_wrong_tuning_arguments_are_named(module, name, setting, error):
    with pytest.raises(error, match=next(iter(setting)) if isinstance(setting, dict) else name):
        module.na2d(*_qkv(8, 9), 3, **{name: setting})


def test_what_is_not_offered_is_named():
    query = torch.zeros(1, 8, 1, 16).to(torch.float8_e4m3fn)
    with pytest.raises(NotImplementedError, match="float8"):
        natten.na1d(query, query, query, 3)
    with pytest.raises(NotImplementedError, match="float8"):
        natten.attention(query, query, query)
    nested = torch.nested.nested_tensor([torch.zeros(8, 1, 16), torch.zeros(5, 1, 16)], layout=torch.jagged)
    with pytest.raises(NotImplementedError, match="nested"):
        functional.na1d(nested, nested, nested, 3)
    with pytest.raises(TypeError, match="unexpected argument 'colour'"):
        functional.na1d(*_qkv(9), 3, colour="red")


def test_compiles_without_graph_breaks():
    query, key, value = _qkv(9)
    compiled = torch.compile(lambda *x: natten.na1d(*x, 3, 1, 2, backend="flex-fna"), fullgraph=True, backend="eager")
    assert torch.equal(compiled(query, key, value), ops.na1d(query, key, value, 3, 1, 2))
