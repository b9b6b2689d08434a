"""What torch expects of an operator: schema, fake kernel, autograd, autocast, compile, export, views and sizes."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import Tensor, nn

from tests.ops.cases import Case, relative_error
from visionattn import ops

DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
PLAIN = Case((6, 7), (3, 3), (1, 1), (2, 1), (False, False))
CASES = {
    "plain": PLAIN,
    "bias": Case((6, 7), (3, 3), (1, 1), (1, 1), (False, False), rpb=True, packed=True),
    "grouped causal 1-D with extra tokens": Case((9,), (4,), (2,), (2,), (True,), heads=4, dim_value=5, additional=3),
    "3-D": Case((3, 4, 5), (2, 3, 3), (1, 2, 1), (1, 1, 1), (False, True, False), dim=3),
}


def raw_arguments(case: Case, tensors: dict[str, Tensor]) -> tuple:
    names = ("query", "key", "value", "rpb", "additional_keys", "additional_values")
    causal = [int(c) for c in case.is_causal]
    area = (list(case.kernel_size), list(case.stride), list(case.dilation), causal)
    return (*(tensors.get(name) for name in names), *area, 0.25)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("requires_grad", [False, True])
@pytest.mark.parametrize("name", CASES)
def test_opcheck_fused(name: str, requires_grad: bool, dtype: torch.dtype):
    case = CASES[name]
    case = Case(**{**case.__dict__, "dtype": dtype})
    tensors = {key: x.requires_grad_(requires_grad) for key, x in case.inputs().items()}
    arguments = raw_arguments(case, tensors)
    torch.library.opcheck(torch.ops.visionattn.neighborhood_attention, arguments)
    with torch.no_grad():
        out, lse = torch.ops.visionattn.neighborhood_attention(*arguments)
        inputs, rest = arguments[:6], arguments[6:]
        backward = torch.ops.visionattn.neighborhood_attention_backward
        arguments = tuple(x if x is None else x.detach() for x in (out, lse, *inputs, out, lse)) + rest
        torch.library.opcheck(backward, arguments)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("requires_grad", [False, True])
def test_opcheck_unfused(requires_grad: bool, dtype: torch.dtype):
    query, key = (torch.randn(2, 3, 5, 6, 8, dtype=dtype, requires_grad=requires_grad) for _ in range(2))
    rpb = torch.randn(3, 5, 3, requires_grad=requires_grad)
    area = ([3, 2], [1, 2], [0, 0])
    operators = torch.ops.visionattn
    torch.library.opcheck(operators.neighborhood_qk, (query, key, rpb, *area))
    attn = torch.randn(2, 3, 5, 6, 6, dtype=dtype, requires_grad=requires_grad)
    torch.library.opcheck(operators.neighborhood_av, (attn, key, *area))
    for operator, arguments in (
        (operators.neighborhood_av_transposed, (attn.detach(), query.detach(), *area)),
        (operators.neighborhood_rpb_gradient, (attn.detach(), *area)),
    ):
        torch.library.opcheck(operator, arguments)


class Attend(nn.Module):
    """Everything that na2d takes, as a module."""

    def __init__(self):
        super().__init__()
        self.rpb = nn.Parameter(torch.randn(2, 5, 5))

    def forward(self, qkv: Tensor) -> Tensor:
        query, key, value = qkv.unbind(-3)
        return ops.na2d(query, key, value, 3, dilation=(1, 2), rpb=self.rpb).flatten(-2)


@pytest.mark.parametrize("dynamic", [False, True])
def test_compile_without_graph_breaks(dynamic: bool):
    torch.compiler.reset()
    module = Attend()
    compiled = torch.compile(module, fullgraph=True, dynamic=dynamic, backend="aot_eager")
    for size in (6, 8) if dynamic else (6,):
        x = torch.randn(2, size, size, 3, 2, 8, requires_grad=True)
        expected = module(x)
        actual = compiled(x)
        assert relative_error(actual, expected) < 1e-6
        grads = [torch.autograd.grad(y.square().sum(), (x, module.rpb)) for y in (actual, expected)]
        for a, b in zip(*grads):
            assert relative_error(a, b) < 1e-6


def test_export_with_dynamic_sizes():
    module, x = Attend().eval(), torch.randn(2, 6, 8, 3, 2, 8)
    batch, height, width = (
        torch.export.Dim(n, min=2 if n == "batch" else 6, max=64) for n in ("batch", "height", "width")
    )
    program = torch.export.export(module, (x,), dynamic_shapes=({0: batch, 1: height, 2: width},))
    assert any("neighborhood_attention" in str(node.target) for node in program.graph.nodes)
    for shape in ((2, 6, 8), (3, 9, 7)):
        x = torch.randn(*shape, 3, 2, 8)
        assert relative_error(program.module()(x), module(x)) < 1e-6


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_autocast(dtype: torch.dtype):
    tensors = Case((6, 6), (3, 3), (1, 1), (1, 1), (False, False), rpb=True, additional=2).inputs()
    query = tensors["query"].requires_grad_()
    case = CASES["bias"]
    with torch.autocast("cpu", dtype):
        out, lse = case.run(tensors)
        raw, _ = torch.ops.visionattn.neighborhood_attention(*raw_arguments(case, tensors))
        reference, _ = case.run(tensors, backend="reference")
    assert out.dtype == raw.dtype == reference.dtype == dtype
    assert lse.dtype == torch.float32
    out.float().sum().backward()
    assert query.grad.dtype == torch.float32
    with torch.autocast("cpu", dtype):
        assert ops.na1d(*(torch.randn(1, 5, 1, 4, dtype=torch.float64) for _ in range(3)), 3).dtype == torch.float64


@pytest.mark.parametrize("backend", ["auto", "reference"])
@pytest.mark.parametrize("name", CASES)
def test_empty_batch(name: str, backend: str):
    case = Case(**{**CASES[name].__dict__, "batch": 0})
    results = case.results(case.inputs(), backend=backend)
    assert results["out"].shape[0] == 0
    for key, grad in results.items():
        assert grad.shape[0] == 0 or not grad.any(), key


def test_fake_and_meta_tensors():
    for name, case in CASES.items():
        tensors = case.inputs()
        meta = {key: x.to("meta") for key, x in tensors.items()}
        for actual, expected in zip(case.run(meta), case.run(tensors)):
            assert (actual.shape, actual.dtype, actual.stride()) == (
                expected.shape,
                expected.dtype,
                expected.stride(),
            ), name


def test_views_are_read_in_place():
    """Any strides, overlapping and broadcast ones too, give the result of contiguous copies."""
    base = torch.randn(2, 9, 3, 8, 2, 8)
    views = {
        "query": base[:, ::2, 0, :5].transpose(1, 2).transpose(1, 2),
        "key": base.flip(1)[:, 1::2, 1, 2:7].expand(2, 4, 5, 2, 8)[:, :4],
        "value": base[:1, 1:9:2, 2, :5].expand(2, 4, 5, 2, 8),
    }
    views["query"] = views["query"][:, :4]
    channels_first = {k: v.permute(0, 3, 4, 1, 2).contiguous().permute(0, 3, 4, 1, 2) for k, v in views.items()}
    case = Case((4, 5), (3, 3), (1, 1), (1, 1), (False, False))
    expected = case.results({k: v.contiguous() for k, v in views.items()})
    for variant in (views, channels_first):
        for name, value in case.results(variant).items():
            assert torch.equal(value, expected[name]), name


def test_offsets_past_2_31_elements():
    """Only the touched pages of the big, never written tensors take memory."""
    stride = 2**31 + 64
    base = torch.empty(stride + 4096, dtype=torch.bfloat16)
    small = torch.randn(2, 4, 4, 1, 16, dtype=torch.bfloat16)
    far = base.as_strided(small.shape, (stride, 64, 16, 16, 1))
    far.copy_(small)
    near = ops.na2d(small, small, small, 3)
    assert torch.equal(ops.na2d(far, far, far, 3), near)
    heads_first = far.movedim(-2, 1)
    expected = ops.na2d_qk(small.movedim(-2, 1), small.movedim(-2, 1), 3)
    assert torch.equal(ops.na2d_qk(heads_first, heads_first, 3), expected)


def test_second_order_gradients():
    def second(backend: str) -> Tensor:
        x = torch.randn(1, 5, 1, 4, generator=torch.Generator().manual_seed(0)).double().requires_grad_()
        out = ops.na1d(x, x, x, 3, backend=backend)
        (grad,) = torch.autograd.grad(out.square().sum(), x, create_graph=True)
        return torch.autograd.grad(grad.square().sum(), x)[0]

    assert second("reference").abs().sum() > 0
    with pytest.raises(NotImplementedError, match="backend='reference'"):
        second("auto")


def test_peak_memory_of_a_forward():
    """Beyond the inputs, a forward needs its outputs and next to nothing else."""
    query, key, value = (torch.randn(4, 56, 56, 4, 32) for _ in range(3))
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        out = ops.na2d(query, key, value, 7)
    allocated = sum(max(0, event.self_cpu_memory_usage) for event in profile.events())
    assert allocated <= 1.2 * out.nbytes


FALLBACK = """
import warnings
import torch
import visionattn
with warnings.catch_warnings():
    warnings.simplefilter("error")
    from visionattn import ops
    assert not visionattn._library.HAS_OPERATORS
    x = torch.randn(1, 6, 6, 2, 4, requires_grad=True)
    ops.na2d(x, x, x, 3).sum().backward()
    assert x.grad.isfinite().all()
    import timm
    timm.create_model("nat_test")(torch.randn(1, 3, 64, 64))
assert "switched off" in visionattn.info()["cpu kernels"]
"""


def test_kernels_can_be_switched_off(monkeypatch):
    monkeypatch.setenv("VISIONATTN_DISABLE_KERNELS", "1")
    subprocess.run([sys.executable, "-c", FALLBACK], check=True)


MISSING = """
import warnings
from pathlib import Path
import torch
load = torch.ops.load_library
def missing(path):
    if Path(path).name.startswith("libvisionattn"):
        raise OSError("no such library")
    return load(path)
torch.ops.load_library = missing
from visionattn import ops
x = torch.randn(1, 6, 1, 4)
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    ops.na1d(x, x, x, 3)
    ops.na1d(x, x, x, 3)
messages = [str(w.message) for w in caught if "visionattn" in str(w.message)]
assert len(messages) == 1 and "Reinstall" in messages[0], messages
"""


def test_a_missing_library_warns_once():
    subprocess.run([sys.executable, "-c", MISSING], check=True)
