"""Checks the CUDA kernels of neighborhood attention on a GPU, in one go.

Against the float64 reference: the recorded fixtures, random problems in three dtypes, views of every layout. Also: the
same bits on two runs, every output written, arithmetic past 2^31 elements, and calls that must be refused.

    python -m tests.cuda.check_neighborhood [--cases 300] [--small] [--output results.json]

`--small` leaves out what takes long under compute-sanitizer. The exit status is 0 if every check passed.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import math
import random
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Callable

import numpy as np
import torch
from torch import Tensor

from tests.ops.cases import FUNCTIONS, Case, random_case, relative_error
from visionattn import ops

FIXTURES = Path(__file__).parent.parent / "fixtures" / "dinat"
DTYPES = (torch.float32, torch.float16, torch.bfloat16)
LIMITS = {torch.float32: 1e-5, torch.float16: 5e-3, torch.bfloat16: 5e-3}
GRAD_LIMITS = {torch.float32: 1e-5, torch.float16: 1e-2, torch.bfloat16: 1e-2}
FUSED_INPUTS = {"q": "query", "k": "key", "v": "value", "rpb": "rpb"}

# What random_case doesn't reach: rows longer than a warp holds, many tokens, windows of every proportion.
LARGE_CASES = (
    Case((40,), (5,), (1,), (3,), (False,), dim=96, dim_value=128, rpb=True, additional=2),
    Case((40,), (5,), (2,), (3,), (True,), dim=200, dim_value=256),
    Case((9, 8), (3, 4), (1, 1), (2, 1), (False, False), dim=300, dim_value=8, rpb=True, additional=3),
    Case((9, 8), (3, 4), (1, 2), (2, 1), (False, True), dim=16, dim_value=520, additional=3),
    Case((6, 5, 4), (3, 2, 2), (1, 1, 1), (2, 1, 1), (False,) * 3, dim=257, dim_value=259, rpb=True),
    Case((9, 8), (3, 4), (1, 1), (1, 1), (False, False), dim=512, dim_value=512, heads=6, rpb=True, packed=True),
    Case((28, 28), (7, 7), (1, 1), (4, 4), (False, False), heads=4, heads_kv=4, dim=32, dim_value=32, rpb=True),
    Case((56, 56), (7, 7), (1, 1), (1, 1), (False, False), heads=2, dim=32, dim_value=32, rpb=True, packed=True),
    Case((1500,), (301,), (1,), (2,), (False,), heads=2, dim=64, dim_value=64, rpb=True, additional=4),
    Case((12, 16, 20), (6, 9, 7), (1, 1, 1), (2, 1, 1), (False,) * 3, batch=1, dim=128, dim_value=128),
    Case((40, 36), (15, 20), (1, 1), (1, 1), (False, False), dim=128, dim_value=128, packed=True),
    Case((42, 40), (10, 13), (1, 1), (2, 1), (False, False), dim=128, dim_value=128, heads=4, heads_kv=2, batch=1),
    Case((40, 36), (24, 20), (1, 1), (1, 1), (False, False), dim=64, dim_value=64, packed=True),
    Case((32, 36), (16, 9), (4, 3), (1, 1), (False, True), dim=128, dim_value=128),
    Case((1200,), (400,), (1,), (2,), (False,), batch=1, dim=128, dim_value=128, scale=0.3),
    Case((9, 13, 17), (6, 8, 9), (1, 1, 1), (1, 1, 1), (False,) * 3, dim=128, dim_value=128, batch=1),
    Case((40, 20), (48, 24), (1, 1), (1, 1), (False, False), clip_window=True, batch=1, dim=64, dim_value=64),
    Case((5, 3), (9, 8), (4, 3), (3, 7), (False, False), clip_window=True, rpb=True, dim=32, dim_value=32),
    # Blocks of one warp whose tables are small: what lies behind the token buffers is close.
    Case((14, 14), (9, 6), (1, 1), (1, 1), (False, False), batch=1, dim=64, dim_value=64),
    Case((17, 19), (6, 9), (3, 1), (1, 1), (False, True), batch=1, dim=64, dim_value=64),
    Case((20, 10), (9, 7), (4, 1), (1, 1), (True, False), batch=1, dim=32, dim_value=32, packed=True),
    Case((18, 9), (9, 9), (2, 1), (1, 1), (False, False), batch=1),
)


class Report:
    """Largest errors, and the checks that failed."""

    def __init__(self) -> None:
        self.errors: dict[str, dict[str, float]] = {}
        self.failures: list[str] = []
        self.counts: dict[str, int] = {}
        self.seconds: dict[str, float] = {}

    def compare(self, group: str, dtype: torch.dtype, actual: dict, expected: dict, label: str) -> None:
        self.counts[group] = self.counts.get(group, 0) + 1
        largest = self.errors.setdefault(f"{group} {str(dtype).removeprefix('torch.')}", {})
        for name, value in actual.items():
            error = relative_error(value, expected[name])
            largest[name] = max(largest.get(name, 0.0), error)
            limit = (GRAD_LIMITS if name.startswith("grad") else LIMITS)[dtype]
            self.require(error < limit, f"{group} {name}: error {error:.2e}, limit {limit:.0e}: {label}")

    def require(self, condition: bool, message: str) -> None:
        if not condition:
            self.failures.append(message)

    def same_bits(self, first: dict[str, Tensor], second: dict[str, Tensor], label: str) -> None:
        for name, value in first.items():
            self.require(torch.equal(value, second[name]), f"{name} differs between two runs: {label}")

    def add(self, other: Report) -> None:
        """Takes over what another process found."""
        self.failures += other.failures
        for group, count in other.counts.items():
            self.counts[group] = self.counts.get(group, 0) + count
        for group, errors in other.errors.items():
            largest = self.errors.setdefault(group, {})
            for name, error in errors.items():
                largest[name] = max(largest.get(name, 0.0), error)

    def finish(self, output: Path | None) -> int:
        """Prints a summary, saves everything as JSON if asked to, and returns the exit status."""
        for group, errors in self.errors.items():
            print(f"{group:32s}", "  ".join(f"{name} {error:.1e}" for name, error in errors.items()))
        print(*self.failures[:40], sep="\n")
        print(f"{sum(self.counts.values())} comparisons, {len(self.failures)} failures")
        if output:
            output.write_text(json.dumps(vars(self), indent=1))
        return 1 if self.failures else 0


@contextmanager
def poisoned_memory() -> Iterator[None]:
    """Memory that torch hands out uninitialised is full of NaN."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        torch.use_deterministic_algorithms(False)


def relayout(tensors: dict[str, Tensor], seed: int) -> dict[str, Tensor]:
    """The same tensors as they are, off 16-byte alignment, with strided channels, or with the batch axis inside."""

    def shifted(x: Tensor) -> Tensor:
        return torch.cat([x.new_zeros(1), x.flatten()])[1:].view(x.shape)

    def strided(x: Tensor) -> Tensor:
        return x.transpose(0, -1).contiguous().transpose(0, -1)

    def batch_inside(x: Tensor) -> Tensor:
        return x.movedim(0, -2).contiguous().movedim(-2, 0)

    change = random.Random(seed).choice((lambda x: x, lambda x: x, shifted, strided, batch_inside))
    return {name: change(x) for name, x in tensors.items()}


def check_case(report: Report, group: str, case: Case, device: str) -> None:
    tensors = case.inputs(device)
    expected = case.reference_results(tensors)
    tensors = relayout(tensors, case.seed)
    with poisoned_memory():
        first, second = case.results(tensors), case.results(tensors)
    report.compare(group, case.dtype, first, expected, str(case))
    report.same_bits(first, second, str(case))


def check_fused_fixture(report: Report, path: Path, dtype: torch.dtype, device: str) -> None:
    data = {name: torch.from_numpy(array) for name, array in np.load(path).items() if array.dtype.kind in "fib"}
    area = {name: data[name].reshape(-1).tolist() for name in ("kernel_size", "stride", "dilation", "is_causal")}
    scale = data["scale"].item()
    run = FUNCTIONS[data["q"].dim() - 3]

    def results(dtype: torch.dtype, backend: str) -> dict[str, Tensor]:
        leaves = {new: data[old].to(device, dtype) for old, new in FUSED_INPUTS.items() if old in data}
        if backend == "reference":  # of the same rounded inputs
            leaves = {name: x.double() for name, x in leaves.items()}
        leaves = {name: x.requires_grad_() for name, x in leaves.items()}
        out, lse = run(**leaves, **area, scale=scale, return_lse=True, backend=backend)
        grads = torch.autograd.grad(out, list(leaves.values()), data["grad_out"].to(device, dtype).to(out.dtype))
        return {"out": out.detach(), "lse": lse.detach(), **{f"grad_{n}": g for n, g in zip(leaves, grads)}}

    expected = results(dtype, "reference")
    if dtype == torch.float32:
        recorded = {"out": data["out"], "lse": data["lse"]}
        recorded.update({f"grad_{new}": data[f"d_{old}"] for old, new in FUSED_INPUTS.items() if old in data})
        report.compare("recorded", dtype, results(dtype, "auto"), recorded, path.stem)
    report.compare("fixture", dtype, results(dtype, "auto"), expected, path.stem)


def check_unfused_fixture(report: Report, path: Path, device: str) -> None:
    data = {name: torch.from_numpy(array) for name, array in np.load(path).items() if array.dtype.kind in "fib"}
    leaves = {
        n: data[n].float().to(device).requires_grad_() for n in ("q", "k", "v", "rpb", "attn_softmax") if n in data
    }
    kernel_size, dilation, is_causal = (data[n].reshape(-1).tolist() for n in ("kernel_size", "dilation", "is_causal"))
    rank = leaves["q"].dim() - 3
    qk, av = getattr(ops, f"na{rank}d_qk"), getattr(ops, f"na{rank}d_av")
    logits = qk(leaves["q"], leaves["k"], kernel_size, dilation, is_causal=is_causal, rpb=leaves.get("rpb"))
    out = av(leaves["attn_softmax"], leaves["v"], kernel_size, dilation, is_causal=is_causal)
    inputs = [n for n in ("q", "k", "rpb") if n in leaves]
    grads = torch.autograd.grad(logits, [leaves[n] for n in inputs], data["grad_attn"].float().to(device))
    grads += torch.autograd.grad(out, [leaves["attn_softmax"], leaves["v"]], data["grad_out"].float().to(device))
    actual = {"logits": logits.detach().nan_to_num(neginf=1e4), "out": out.detach()}
    actual.update({f"grad_{n}": grad for n, grad in zip((*inputs, "attn", "v"), grads)})
    expected = {"logits": data["attn"].nan_to_num(neginf=1e4), "out": data["out"]}
    expected.update({f"grad_{n}": data[f"d_{n}"] for n in (*inputs, "attn", "v")})
    report.compare("recorded", torch.float32, actual, expected, path.stem)


def check_recorded_windows(report: Report, device: str) -> None:
    """Uniform attention over one-hot values shows which keys a query attends to."""
    data = np.load(FIXTURES / "op_windows.npz")
    for row, start, stop in zip(data["cfg"].tolist(), data["offset"][:-1], data["offset"][1:]):
        length, *area, causal = row
        bits = np.unpackbits(data["bits"][start:stop])[: length * length]
        expected = torch.from_numpy(bits.reshape(length, length)).bool()
        query = torch.zeros(1, length, 1, 4, device=device)
        value = torch.eye(length, device=device)[None, :, None]
        out = ops.na1d(query, query, value, *area, is_causal=bool(causal))
        report.require(torch.equal(out[0, :, 0].cpu() > 0, expected), f"windows of {row}")
        report.counts["windows"] = report.counts.get("windows", 0) + 1


def unfused_results(case: Case, tensors: dict[str, Tensor], backend: str) -> dict[str, Tensor]:
    """Logits, output and gradients of the unfused operators; what masked slots hold is NaN and must not matter."""
    rank = len(case.spatial)
    qk, av = getattr(ops, f"na{rank}d_qk"), getattr(ops, f"na{rank}d_av")
    area = (case.kernel_size, case.dilation)
    leaves = {name: x.detach().requires_grad_() for name, x in tensors.items()}
    query, key, value, weights = (leaves[name] for name in ("query", "key", "value", "weights"))
    logits = qk(query, key, *area, is_causal=case.is_causal, rpb=leaves.get("rpb"), backend=backend)
    masked = logits == -math.inf
    inputs = [leaves[name] for name in ("query", "key", "rpb") if name in leaves]
    grads = torch.autograd.grad(logits, inputs, weights.detach().masked_fill(masked, math.nan))
    results = {f"grad_{name}": grad for name, grad in zip(("query", "key", "rpb"), grads)}
    poisoned = weights.detach().masked_fill(masked, math.nan).requires_grad_()
    out = av(poisoned, value, *area, is_causal=case.is_causal, backend=backend)
    grad_weights, grad_value = torch.autograd.grad(out, (poisoned, value), leaves["grad_out"].detach())
    finite = logits.detach().masked_fill(masked, 1e4)
    return {"out": out.detach(), "logits": finite, **results, "grad_weights": grad_weights, "grad_value": grad_value}


def check_unfused_case(report: Report, case: Case, device: str) -> None:
    case = dataclasses.replace(case, stride=(1,) * len(case.spatial), heads_kv=case.heads, dim_value=case.dim)
    case = dataclasses.replace(case, packed=False, additional=0, clip_window=False)
    if any(k * d > size for k, d, size in zip(case.kernel_size, case.dilation, case.spatial)):
        return
    tensors = {name: x if name == "rpb" else x.movedim(-2, 1) for name, x in case.inputs(device).items()}
    generator = torch.Generator().manual_seed(case.seed + 2)
    shape = tensors["query"].shape

    def draw(*sizes: int) -> Tensor:
        return torch.randn(sizes, generator=generator, dtype=torch.float64).to(device, case.dtype)

    tensors["weights"] = draw(*shape[:-1], math.prod(case.kernel_size))
    tensors["grad_out"] = draw(*shape)
    expected = unfused_results(case, {name: x.double() for name, x in tensors.items()}, "reference")
    tensors = relayout(tensors, case.seed + 1)
    with poisoned_memory():
        first, second = (unfused_results(case, tensors, "auto") for _ in range(2))
    report.compare("unfused", case.dtype, first, expected, str(case))
    report.same_bits(first, second, f"unfused {case}")


def check_empty_and_views(report: Report, device: str) -> None:
    case = Case((9, 8), (3, 4), (1, 1), (2, 1), (False, False), dim=16, dim_value=16, additional=2, rpb=True)
    tensors = {name: x if name == "rpb" else x[:0] for name, x in case.inputs(device).items()}
    with poisoned_memory():
        results = case.results(tensors)
    report.require(results["out"].shape == (0, 9, 8, 2, 16), "output of an empty batch")
    report.require(bool((results["grad_rpb"] == 0).all()), "gradient of the bias of an empty batch")

    leaves = {name: x.requires_grad_() for name, x in case.inputs(device).items()}
    out = case.run(leaves)[0]
    for expanded in (torch.ones((), device=device).expand_as(out), torch.rand_like(out[..., :1, :1]).expand_as(out)):
        with poisoned_memory():
            first = torch.autograd.grad(out, list(leaves.values()), expanded, retain_graph=True)
            second = torch.autograd.grad(out, list(leaves.values()), expanded.contiguous(), retain_graph=True)
        report.require(all(map(torch.equal, first, second)), "gradients of an expanded grad_output")


def check_refusals(report: Report, device: str) -> None:
    """A direct call with arguments that don't fit is refused, never run."""
    q, k, v = (torch.randn(2, 9, 8, 4, 16, device=device) for _ in range(3))
    tokens, ones, area = torch.randn(2, 3, 4, 16, device=device), [1, 1], ([3, 3], [1, 1], [1, 1], [0, 0], 1.0)
    call = torch.ops.visionattn.neighborhood_attention
    calls: list[Callable[[], object]] = [
        lambda: call(q[0], k, v, None, None, None, *area),
        lambda: call(q, k[:, :8], v, None, None, None, *area),
        lambda: call(q, k, v[:, :, :7], None, None, None, *area),
        lambda: call(q, k[..., :8], v, None, None, None, *area),
        lambda: call(q, k[..., :3, :], v[..., :3, :], None, None, None, *area),
        lambda: call(q, k.half(), v, None, None, None, *area),
        lambda: call(q.double(), k.double(), v.double(), None, None, None, *area),
        lambda: call(q, k.cpu(), v, None, None, None, *area),
        lambda: call(q, k, v, torch.zeros(4, 5, 4, device=device), None, None, *area),
        lambda: call(q, k, v, torch.zeros(4, 5, 5), None, None, *area),
        lambda: call(q, k, v, None, tokens, None, *area),
        lambda: call(q, k, v, None, tokens, tokens[:, :2], *area),
        lambda: call(q, k, v, None, None, None, [3], ones, ones, [0, 0], 1.0),
        lambda: call(q, k, v, None, None, None, [3, 0], ones, ones, [0, 0], 1.0),
        lambda: call(q, k, v, None, None, None, [3, 3], [4, 1], ones, [0, 0], 1.0),
        lambda: call(q, k, v, None, None, None, [3, 3], ones, [0, 1], [0, 0], 1.0),
        lambda: call(q, k, v, None, None, None, [1 << 40, 3], ones, ones, [0, 0], 1.0),
        lambda: torch.ops.visionattn.neighborhood_qk(q, k[:1], None, [3, 3], ones, [0, 0]),
        lambda: torch.ops.visionattn.neighborhood_av(q, v, [3, 3], ones, [0, 0]),
        lambda: torch.ops.visionattn.neighborhood_rpb_gradient(q, [3, 3], ones, [0, 0]),
    ]
    for number, wrong in enumerate(calls):
        try:
            wrong()
        except RuntimeError:
            continue
        report.failures.append(f"wrong call {number} was not refused")


def check_past_2_31_elements(report: Report, device: str) -> None:
    """Results far into tensors of more than 2^31 elements equal those of a crop around them."""
    batch, length, heads, dim, kernel = 2, 2_200_000, 8, 64, 7
    qkv = torch.empty(batch, length, 3, heads, dim, device=device, dtype=torch.bfloat16).normal_()
    rpb = torch.randn(heads, 2 * kernel - 1, device=device)
    leaves = [x.detach().requires_grad_() for x in (*qkv.unbind(2), rpb)]
    out = ops.na1d(*leaves[:3], kernel, rpb=leaves[3])
    grad = torch.empty_like(out).normal_()
    grads = torch.autograd.grad(out, leaves, grad)
    assert out.numel() > 2**31
    packed, contiguous = 2**31 // (3 * heads * dim), 2**31 // (heads * dim)  # tokens before the limit
    for b, start in ((0, 0), (0, packed - 200), (1, length // 2), (1, contiguous - length - 200), (1, length - 400)):
        crop = (slice(b, b + 1), slice(start, start + 400))
        # Windows near a cut side of the crop differ, as do the gradients that come from them.
        kept = slice(0 if start == 0 else 20, 400 if start + 400 == length else 380)
        parts = [x[crop].detach().double().requires_grad_() for x in leaves[:3]]
        expected = ops.na1d(*parts, kernel, rpb=rpb.detach().double(), backend="reference")
        expected_grads = torch.autograd.grad(expected, parts, grad[crop].double())
        names = ("out", "grad_query", "grad_key", "grad_value")
        report.compare(
            "past 2^31",
            torch.bfloat16,
            {n: x[crop][:, kept] for n, x in zip(names, (out.detach(), *grads))},
            {n: x[:, kept] for n, x in zip(names, (expected.detach(), *expected_grads))},
            f"batch {b}, position {start}",
        )
    halves = []
    for b in range(batch):
        parts = [x[b : b + 1].detach().requires_grad_() for x in leaves[:3]]
        bias = rpb.detach().requires_grad_()
        halves.append(torch.autograd.grad(ops.na1d(*parts, kernel, rpb=bias), bias, grad[b : b + 1])[0])
    report.compare("past 2^31", torch.float32, {"grad_rpb": grads[3]}, {"grad_rpb": sum(halves)}, "by batch element")


def check_past_2_31_queries(report: Report, device: str) -> None:
    """More than 2^31 queries of one channel each."""
    rows, columns = 3, 720_000_000
    leaves = [torch.empty(1, rows, columns, 1, 1, device=device, dtype=torch.bfloat16).normal_() for _ in range(3)]
    for x in leaves:
        x.requires_grad_()
    out = ops.na2d(*leaves, (2, 3))
    grad = torch.empty_like(out).normal_()
    grads = torch.autograd.grad(out, leaves, grad)
    assert out.numel() > 2**31
    for start in (0, 2**31 - 2 * columns - 150, columns - 300):
        crop, kept = (slice(None), slice(None), slice(start, start + 300)), slice(10, 290)
        parts = [x[crop].detach().double().requires_grad_() for x in leaves]
        expected = ops.na2d(*parts, (2, 3), backend="reference")
        expected_grads = torch.autograd.grad(expected, parts, grad[crop].double())
        report.compare(
            "past 2^31",
            torch.bfloat16,
            {n: x[crop][:, :, kept] for n, x in zip(("out", "grad_q", "grad_k", "grad_v"), (out.detach(), *grads))},
            {
                n: x[:, :, kept]
                for n, x in zip(("out", "grad_q", "grad_k", "grad_v"), (expected.detach(), *expected_grads))
            },
            f"queries, column {start}",
        )


def run(cases: int = 300, small: bool = False, device: str = "cuda") -> Report:
    """Runs every check; `small` takes a few minutes under compute-sanitizer."""
    report = Report()
    tokens = 40 if small else 400
    fixtures = sorted(FIXTURES.glob("op_na?d_*.npz"))
    report.require(bool(fixtures), f"no fixtures in {FIXTURES}")

    def recorded() -> None:
        for path, dtype in itertools.product(fixtures, DTYPES):
            check_fused_fixture(report, path, dtype, device)
        for path in sorted(FIXTURES.glob("op_qk_av_*.npz")):
            check_unfused_fixture(report, path, device)
        check_recorded_windows(report, device)

    def fused() -> None:
        for seed, dtype in itertools.product(range(cases), DTYPES):
            check_case(report, "random", random_case(seed, dtype, tokens), device)

    def unfused() -> None:
        for seed, dtype in itertools.product(range(cases // 3), DTYPES):
            check_unfused_case(report, random_case(seed, dtype, tokens), device)

    def large() -> None:
        for case, dtype in itertools.product(LARGE_CASES[:5] if small else LARGE_CASES, DTYPES):
            check_case(report, "large", dataclasses.replace(case, dtype=dtype), device)

    checks: dict[str, Callable[[], None]] = {
        "fixtures": recorded,
        "random": fused,
        "unfused": unfused,
        "large": large,
        "empty, views": lambda: check_empty_and_views(report, device),
        "refusals": lambda: check_refusals(report, device),
        "past 2^31 elements": lambda: check_past_2_31_elements(report, device),
        "past 2^31 queries": lambda: check_past_2_31_queries(report, device),
    }
    for name, check in checks.items():
        if small and name in ("fixtures", "past 2^31 elements", "past 2^31 queries"):
            continue
        start = time.perf_counter()
        try:
            check()
        except (RuntimeError, torch.OutOfMemoryError) as error:
            report.failures.append(f"{name}: {error}")
        report.seconds[name] = round(time.perf_counter() - start, 1)
        if device == "cuda":
            torch.cuda.empty_cache()
        print(f"{name}: {report.seconds[name]} s, {len(report.failures)} failures so far", flush=True)
    return report


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--cases", type=int, default=300, help="random problems per dtype")
    parser.add_argument("--small", action="store_true", help="small problems only, for compute-sanitizer")
    parser.add_argument("--output", type=Path, help="JSON file for the largest errors")
    parser.add_argument("--device", default="cuda")
    options = parser.parse_args()
    return run(options.cases, options.small, options.device).finish(options.output)


if __name__ == "__main__":
    sys.exit(main())
