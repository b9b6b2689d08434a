"""Checks the Triton kernels of the Newton inverse, of Flow-Attention and of attention within a disc, in one go: against
the float64 reference on random problems, in three dtypes; the same bits on two runs; every output written.

    python -m tests.cuda.check_token_mixers [--cases 20] [--seconds 60] [--output results.json]
    TRITON_INTERPRET=1 python -m tests.cuda.check_token_mixers --device cpu --cases 3   # without a GPU

One process per operator and dtype, as most of the time is Triton's to compile. The exit status is 0 if every check
passed.
"""

from __future__ import annotations

import argparse
import itertools
import multiprocessing
import os
import random
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Callable

import torch
from torch import Tensor

from tests.cuda.check_neighborhood import Report, poisoned_memory
from visionattn import ops

os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # deterministic matrix products, set before CUDA starts
DTYPES = (torch.float32, torch.float16, torch.bfloat16)
Problem = tuple[dict[str, Tensor], Callable[..., Tensor]]  # inputs in float64, and the operator on them


def newton_inverse(draw: random.Random, largest: int) -> Problem:
    size = draw.choice((1, 5, 16, 25, 49, 64)[: 4 if largest < 20 else 6])
    points = torch.randn(draw.randint(1, 4), draw.randint(1, 3), size, 32, dtype=torch.float64) * 0.5
    matrix = ops.gaussian_kernel(points, points)
    options = dict(
        method=draw.choice(("damped", "global")), normalize=draw.random() < 0.5, max_iter=draw.choice((0, 5, 20, 30))
    )
    return {"matrix": matrix}, lambda matrix, **kwargs: ops.newton_inverse(matrix, **options, **kwargs)


def qkv(draw: random.Random, tokens: int, dim: int) -> dict[str, Tensor]:
    """Slices of a packed projection, tokens before heads."""
    packed = torch.randn(draw.randint(1, 3), tokens, 3, draw.randint(1, 3), dim, dtype=torch.float64)
    return dict(zip(("query", "key", "value"), packed.permute(2, 0, 3, 1, 4)))


def flow_attention(draw: random.Random, largest: int) -> Problem:
    dims = (8, 24, 64, 128)
    dim = draw.choice(dims if largest > 20 else dims[:3])  # Triton's interpreter can't multiply the parts of wide heads
    inputs = qkv(draw, draw.randint(1, largest**2), dim)
    if draw.random() < 0.5:  # of another number of tokens and channels
        shape, sources = inputs["query"].shape[:2], draw.randint(1, largest**2)
        inputs["key"] = torch.randn(*shape, sources, dim, dtype=torch.float64)
        inputs["value"] = torch.randn(*shape, sources, draw.choice((5, 64)), dtype=torch.float64)
    flow_eps = draw.choice((0.0, 1e-6))
    return inputs, lambda query, key, value, **kwargs: ops.flow_attention(
        query, key, value, flow_eps=flow_eps, **kwargs
    )


def circular_attention(draw: random.Random, largest: int) -> Problem:
    pool = draw.choice((0, 0, 2, 4))
    height, width = (draw.randint(1, largest) * max(pool, 1) // max(pool // 2, 1) for _ in range(2))
    if pool:
        height, width = (max(pool, size // pool * pool) for size in (height, width))
    prefix = draw.choice((0, 1, 5, 70))
    inputs = qkv(draw, prefix + height * width, draw.choice((16, 40, 64)))
    if pool:
        inputs["pool_weight"] = torch.rand(pool, pool, dtype=torch.float64) / pool
    radius = draw.choice((1, 2.5, 4, 8, 11))

    def run(query: Tensor, key: Tensor, value: Tensor, pool_weight=None, **kwargs) -> Tensor:
        size = (height, width)
        return ops.circular_attention(query, key, value, radius, size, prefix, pool_weight=pool_weight, **kwargs)

    return inputs, run


KINDS = (newton_inverse, flow_attention, circular_attention)


def results(problem: Problem, dtype: torch.dtype, device: str, backend: str, seed: int) -> dict[str, Tensor]:
    """The output and all gradients, from inputs rounded to `dtype`."""
    inputs, run = problem
    compute = torch.float64 if backend == "reference" else dtype
    leaves = {name: x.to(device, dtype).to(compute).detach().requires_grad_() for name, x in inputs.items()}
    out = run(**leaves, backend=backend)
    generator = torch.Generator().manual_seed(seed)
    grad = torch.randn(out.shape, generator=generator).to(out.device, dtype).to(out.dtype)
    grads = torch.autograd.grad(out, list(leaves.values()), grad)
    return {"out": out.detach(), **{f"grad_{name}": g for name, g in zip(leaves, grads)}}


def run_one(kind: str, dtype: torch.dtype, cases: int, device: str, seconds: float) -> Report:
    """Checks one operator in one dtype, with as many problems as there is time for."""
    report, begin = Report(), time.monotonic()
    largest = 40 if device == "cuda" else 9
    function = {f.__name__: f for f in KINDS}[kind]
    for seed in range(cases):
        if time.monotonic() - begin > seconds:
            break
        name = f"{kind} {seed} {dtype}"
        torch.manual_seed(seed)
        problem = function(random.Random(seed), largest)
        try:
            expected = results(problem, dtype, device, "reference", seed)
            with poisoned_memory():
                torch.use_deterministic_algorithms(True)  # those of torch's attention for tokens before the grid, too
                first, second = (results(problem, dtype, device, "triton", seed) for _ in range(2))
            report.compare(kind, dtype, first, expected, name)
            report.same_bits(first, second, name)
        except Exception as error:  # of a compiler, too
            report.failures.append(f"{name}: {type(error).__name__}: {error}")
    return report


def run(cases: int = 20, device: str = "cuda", seconds: float = 60.0) -> Report:
    total = Report()
    dtypes = DTYPES if device == "cuda" else DTYPES[:1]
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(len(KINDS) * len(dtypes) if device == "cuda" else 1, context) as pool:
        jobs = [
            pool.submit(run_one, kind.__name__, dtype, cases, device, seconds)
            for kind, dtype in itertools.product(KINDS, dtypes)
        ]
        for job in jobs:
            total.add(job.result())
    return total


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--cases", type=int, default=20, help="random problems per kind and dtype")
    parser.add_argument("--seconds", type=float, default=60.0, help="after these a process starts no more problems")
    parser.add_argument("--output", type=Path, help="JSON file for the largest errors")
    parser.add_argument("--device", default="cuda")
    options = parser.parse_args()
    return run(options.cases, options.device, options.seconds).finish(options.output)


if __name__ == "__main__":
    sys.exit(main())
