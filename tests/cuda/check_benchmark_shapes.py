"""Checks the kernels at the shapes of the benchmark's table, where the whole reference would be too big.

A random sample of queries is computed in float64. The gradient that comes in is zero for every other query, so that the
gradients that go out, of all keys, values and biases, are those of the sample alone and are compared whole.

    python -m tests.cuda.check_benchmark_shapes [--output results.json]
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from pathlib import Path
from typing import Dict

import torch
from torch import Tensor

from tests.ops.cases import relative_error
from visionattn import ops
from visionattn.engine.benchmark_suites.neighborhood import NA_CASES
from visionattn.engine.benchmark_suites.neighborhood import Case as Shape
from visionattn.ops.reference.neighborhood import Windows, windows

LIMITS = {torch.float32: 1e-5, torch.float16: 5e-3, torch.bfloat16: 5e-3}
GRAD_LIMITS = {torch.float32: 1e-5, torch.float16: 1e-2, torch.bfloat16: 1e-2}


def sampled_windows(case: Shape, positions: Tensor) -> Windows:
    """The windows of the tokens `positions` `[S]` of the map; see `visionattn.ops.reference.neighborhood.windows`."""
    coordinates = torch.unravel_index(positions, case.spatial)
    index = mask = relative = None
    for length, kernel, at in zip(case.spatial, case.kernel_size, coordinates):
        axis = windows([length], [kernel], [1], [case.dilation], [False], positions.device)
        here = Windows(*(table[at] for table in axis))
        if index is None:
            index, mask, relative = here
            continue
        index = (index[:, :, None] * length + here.index[:, None]).flatten(1)
        mask = (mask[:, :, None] & here.mask[:, None]).flatten(1)
        relative = (relative[:, :, None] * (2 * kernel - 1) + here.relative[:, None]).flatten(1)
    return Windows(index, mask, relative)


def check(case: Shape, dtype: torch.dtype, seed: int = 0) -> Dict[str, float]:
    """Relative errors of output, lse and gradients on a sample of queries."""
    torch.manual_seed(seed)
    window = math.prod(case.kernel_size)
    count = max(8, min(128, 2**29 // (window * case.heads * case.head_dim)))
    shape = (case.batch, case.tokens, 3, case.heads, case.head_dim)
    qkv = torch.randn(shape, device="cuda", dtype=dtype)
    rpb = torch.randn(case.heads, *(2 * k - 1 for k in case.kernel_size), device="cuda") if case.rpb else None
    batch = torch.randint(case.batch, (count,), device="cuda")
    position = torch.randperm(case.tokens, device="cuda")[:count]  # distinct, for the gradients
    batch = batch[: len(position)]

    leaves = [x.requires_grad_() for x in (qkv, rpb) if x is not None]
    packed = qkv.unflatten(1, case.spatial)
    out, lse = ops.na_qkv(packed, case.kernel_size, dilation=case.dilation, rpb=rpb, return_lse=True)
    grad_out = torch.zeros_like(out).flatten(1, -3)
    grad_out[batch, position] = torch.randn(len(position), case.heads, case.head_dim, device="cuda", dtype=dtype)
    grads = torch.autograd.grad(out, leaves, grad_out.view_as(out))

    table = sampled_windows(case, position)
    query, key, value = qkv.detach().unbind(2)
    q = query[batch, position].double() * case.head_dim**-0.5
    k, v = (x[batch[:, None], table.index].double() for x in (key, value))  # [S, W, H, D]
    logits = torch.einsum("shd,swhd->shw", q, k)
    if rpb is not None:
        logits += rpb.detach().double().flatten(1)[:, table.relative].transpose(0, 1)
    logits.masked_fill_(~table.mask[:, None], -math.inf)
    expected_lse = logits.logsumexp(-1)
    weights = (logits - expected_lse[..., None]).exp()
    expected = torch.einsum("shw,swhd->shd", weights, v)
    errors = {
        "out": relative_error(out.detach().flatten(1, -3)[batch, position], expected),
        "lse": relative_error(lse.detach().flatten(1, -2)[batch, position], expected_lse),
    }

    go = grad_out[batch, position].double()
    d_logits = torch.einsum("shd,swhd->shw", go, v) - (go * expected).sum(-1, keepdim=True)
    d_logits = weights * d_logits
    expected_qkv = torch.zeros(shape, dtype=torch.float64, device="cuda")
    expected_qkv[batch, position, 0] = torch.einsum("shw,swhd->shd", d_logits, k) * case.head_dim**-0.5
    rows = (batch[:, None].expand_as(table.index), table.index)
    for part, contribution in (
        (1, torch.einsum("shw,shd->swhd", d_logits, q)),
        (2, torch.einsum("shw,shd->swhd", weights, go)),
    ):
        expected_qkv[:, :, part].index_put_(rows, contribution, accumulate=True)
    for part, name in enumerate("qkv"):
        errors[f"grad_{name}"] = relative_error(grads[0][:, :, part], expected_qkv[:, :, part])
    if rpb is not None:
        expected_rpb = torch.zeros(case.heads, rpb[0].numel(), dtype=torch.float64, device="cuda")
        flat = d_logits.transpose(0, 1).flatten(1)
        expected_rpb.index_add_(1, table.relative.flatten(), flat)
        errors["grad_rpb"] = relative_error(grads[1].flatten(1), expected_rpb)
    return errors


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    report, failed = {}, 0
    for case in NA_CASES:
        for dtype in LIMITS:
            errors = check(case, dtype)
            wrong = {n: e for n, e in errors.items() if not e < (GRAD_LIMITS if "grad" in n else LIMITS)[dtype]}
            failed += bool(wrong)
            report[f"{case.name}, {dtype}"] = errors
            shown = "  ".join(f"{name} {error:.1e}" for name, error in errors.items())
            print("WRONG" if wrong else "ok   ", case.name, str(dtype)[6:], shown, flush=True)
            torch.cuda.empty_cache()
    if args.output:
        args.output.write_text(json.dumps(report, indent=1))
    print(f"{failed} wrong of {len(report)}")
    sys.exit(failed > 0)


if __name__ == "__main__":
    main()
