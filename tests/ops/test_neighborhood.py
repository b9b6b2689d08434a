"""Neighborhood attention against recorded results of the released operators, and against its reference."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.ops.cases import FUNCTIONS, Case, random_case, relative_error
from visionattn import ops
from visionattn.ops.reference.neighborhood import windows

FIXTURES = Path(__file__).parent.parent / "fixtures" / "dinat"
BACKENDS = ("auto", "reference")
INPUTS = {
    "q": "query",
    "k": "key",
    "v": "value",
    "rpb": "rpb",
    "additional_keys": "additional_keys",
    "additional_values": "additional_values",
}


def load(name: str) -> dict[str, np.ndarray]:
    return dict(np.load(FIXTURES / f"{name}.npz"))


def tensor(array: np.ndarray) -> Tensor:
    return torch.from_numpy(array)


def fixture_names(pattern: str) -> list[str]:
    names = sorted(path.stem for path in FIXTURES.glob(pattern))
    assert names, f"no fixtures {pattern} in {FIXTURES}"
    return names


def test_windows_match_recorded_masks():
    data = load("op_windows")
    for (length, kernel, stride, dilation, causal), start, stop in zip(
        data["cfg"].tolist(), data["offset"][:-1], data["offset"][1:]
    ):
        bits = np.unpackbits(data["bits"][start:stop])[: length * length]
        expected = tensor(bits.reshape(length, length)).bool()
        table = windows([length], [kernel], [stride], [dilation], [bool(causal)], torch.device("cpu"))
        actual = torch.zeros(length, length, dtype=torch.bool)
        rows = torch.arange(length)[:, None].expand_as(table.index)
        actual[rows[table.mask], table.index[table.mask]] = True
        assert torch.equal(actual, expected), (length, kernel, stride, dilation, causal)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", fixture_names("op_na?d_*.npz"))
def test_fused_fixture(name: str, backend: str):
    data = load(name)
    leaves = {INPUTS[key]: tensor(data[key]).requires_grad_() for key in INPUTS if key in data}
    rank = leaves["query"].dim() - 3
    area = {key: data[key].reshape(-1).tolist() for key in ("kernel_size", "stride", "dilation", "is_causal")}
    scale = data["scale"].item() if "scale" in data else None
    out, lse = FUNCTIONS[rank](**leaves, **area, scale=scale, return_lse=True, backend=backend)
    assert relative_error(out, tensor(data["out"])) < 1e-10
    assert relative_error(lse, tensor(data["lse"])) < 1e-10
    grads = torch.autograd.grad(out, list(leaves.values()), tensor(data["grad_out"]))
    for key, grad in zip((key for key in INPUTS if key in data), grads):
        assert relative_error(grad, tensor(data[f"d_{key}"])) < 1e-10, key


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", fixture_names("op_qk_av_*.npz"))
def test_unfused_fixture(name: str, backend: str):
    data = load(name)
    query, key, value = (tensor(data[n]).requires_grad_() for n in "qkv")
    rank = query.dim() - 3
    kernel, dilation, causal = (data[n].reshape(-1).tolist() for n in ("kernel_size", "dilation", "is_causal"))
    qk, av = getattr(ops, f"na{rank}d_qk"), getattr(ops, f"na{rank}d_av")
    leaves = {"q": query, "k": key}
    for name in ("rpb", "additional_keys"):
        if name in data:
            leaves[name] = tensor(data[name]).requires_grad_()
    logits = qk(
        query, key, kernel, dilation, leaves.get("additional_keys"), causal, leaves.get("rpb"), backend=backend
    )  # fmt: skip
    expected = tensor(data["attn"])
    finite = expected.isfinite()
    assert torch.equal(logits.isfinite(), finite)
    assert relative_error(logits[finite], expected[finite]) < 1e-10
    grads = torch.autograd.grad(logits, list(leaves.values()), tensor(data["grad_attn"]))
    for key_name, grad in zip(leaves, grads):
        assert relative_error(grad, tensor(data[f"d_{key_name}"])) < 1e-10, key_name

    weights = tensor(data["attn_softmax"]).requires_grad_()
    leaves = {"attn": weights, "v": value}
    if "additional_values" in data:
        leaves["additional_values"] = tensor(data["additional_values"]).requires_grad_()
    out = av(weights, value, kernel, dilation, leaves.get("additional_values"), causal, backend=backend)
    assert relative_error(out, tensor(data["out"])) < 1e-10
    grads = torch.autograd.grad(out, list(leaves.values()), tensor(data["grad_out"]))
    for key_name, grad in zip(leaves, grads):
        assert relative_error(grad, tensor(data[f"d_{key_name}"])) < 1e-10, key_name


def test_merge_fixture():
    data = load("op_merge")
    outputs, lses = ([tensor(data[f"{kind}{i}"]) for i in range(3)] for kind in ("out", "lse"))
    merged, lse = ops.merge_attentions(outputs, lses)
    assert relative_error(merged, tensor(data["merged_out"])) < 1e-10
    assert relative_error(lse, tensor(data["merged_lse"])) < 1e-10


LIMITS = {torch.float64: 1e-12, torch.float32: 1e-5, torch.float16: 5e-3, torch.bfloat16: 5e-3}
GRAD_LIMITS = {torch.float64: 1e-12, torch.float32: 1e-5, torch.float16: 1e-2, torch.bfloat16: 1e-2}


def check(case: Case, device: str = "cpu") -> None:
    tensors = case.inputs(device)
    expected = case.reference_results(tensors)
    actual = case.results(tensors)
    for name, value in actual.items():
        limits = GRAD_LIMITS if name.startswith("grad") else LIMITS
        assert relative_error(value, expected[name]) < limits[case.dtype], (name, case)
    again = case.results(tensors)
    for name, value in actual.items():
        assert torch.equal(value, again[name]), (name, case)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(seed=st.integers(0, 10**6), dtype=st.sampled_from(sorted(LIMITS, key=str)))
def test_kernel_matches_reference(seed: int, dtype: torch.dtype):
    check(random_case(seed, dtype))


@pytest.mark.slow
@settings(max_examples=1000, deadline=None, derandomize=True)
@given(seed=st.integers(0, 10**9), dtype=st.sampled_from(sorted(LIMITS, key=str)))
def test_kernel_matches_reference_on_many(seed: int, dtype: torch.dtype):
    check(random_case(seed, dtype, max_tokens=900))


@pytest.mark.parametrize("seed", range(6))
def test_reference_gradcheck(seed: int):
    case = random_case(seed, torch.float64, max_tokens=16)
    tensors = {name: x.requires_grad_() for name, x in case.inputs().items()}
    names = list(tensors)

    def function(*values: Tensor):
        return case.run(dict(zip(names, values)), backend="reference")

    assert torch.autograd.gradcheck(function, list(tensors.values()), fast_mode=True)


def test_full_window_is_self_attention():
    query, key, value = (torch.randn(2, 5, 6, 3, 16, dtype=torch.float64) for _ in range(3))
    out = ops.na2d(query, key, value, (5, 6))
    q, k, v = (x.flatten(1, 2).transpose(1, 2) for x in (query, key, value))
    dense = torch.nn.functional.scaled_dot_product_attention(q, k, v)
    assert relative_error(out.flatten(1, 2).transpose(1, 2), dense) < 1e-12


@pytest.mark.parametrize("backend", BACKENDS)
def test_merging_with_additional_tokens_equals_passing_them(backend: str):
    case = Case((9, 8), (3, 4), (1, 1), (2, 1), (False, False), additional=5, dtype=torch.float64)
    tensors = {name: x.requires_grad_() for name, x in case.inputs().items()}
    together = case.run(tensors, backend=backend)
    window = {name: x for name, x in tensors.items() if not name.startswith("additional")}
    query, extra_key, extra_value = (tensors[name] for name in ("query", "additional_keys", "additional_values"))
    logits = torch.einsum("byxhd,bmhd->byxhm", query, extra_key) * query.shape[-1] ** -0.5
    extra = torch.einsum("byxhm,bmhd->byxhd", logits.softmax(-1), extra_value), logits.logsumexp(-1)
    parts = [case.run(window, backend=backend), extra]
    merged = ops.merge_attentions([out for out, _ in parts], [lse for _, lse in parts])
    for a, b in zip(merged, together):
        assert relative_error(a, b) < 1e-12
    grads = [torch.autograd.grad(sum(x.square().sum() for x in r), list(tensors.values())) for r in (merged, together)]
    for a, b in zip(*grads):
        assert relative_error(a, b) < 1e-10


def test_gradient_does_not_depend_on_the_number_of_threads():
    case = Case((20, 20), (7, 7), (1, 1), (1, 1), (False, False), rpb=True)
    tensors = case.inputs()
    threads = torch.get_num_threads()
    try:
        results = []
        for count in (1, 2):
            torch.set_num_threads(count)
            results.append(case.results(tensors))
    finally:
        torch.set_num_threads(threads)
    for name in results[0]:
        assert torch.equal(results[0][name], results[1][name]), name
