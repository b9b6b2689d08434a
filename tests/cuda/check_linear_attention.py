"""Checks the Triton kernels of linear attention, in one go: against the float64 reference on random problems of every
kind, size and layout, in three dtypes; the same bits on two runs; every output written.

    python -m tests.cuda.check_linear_attention [--cases 3] [--output results.json]
    TRITON_INTERPRET=1 python -m tests.cuda.check_linear_attention --device cpu --cases 6   # without a GPU

The exit status is 0 if every check passed.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import functools
import importlib
import itertools
import multiprocessing
import random
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Union

import torch
from torch import Tensor

from tests.cuda.check_neighborhood import Report, poisoned_memory, relayout
from visionattn import ops
from visionattn.ops.linear_attention import FEATURE_MAPS

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
KINDS = (*FEATURE_MAPS, "clamped", "rank_augmented", "magnitude_aware")


@dataclass(frozen=True)
class Case:
    """One problem; `height * width` tokens, `keys` of them for the kinds that allow others than the queries'."""

    kind: str
    batch: int
    heads: int
    height: int
    width: int
    keys: int
    dim: int
    value_dim: int
    rotary: bool
    sharpness: float
    layout: str  # "apart", or slices of a projection with channels "last" or "first"
    dtype: torch.dtype
    seed: int

    def inputs(self, device: str) -> dict[str, Tensor]:
        torch.manual_seed(self.seed)
        shape = (self.batch, self.heads, self.height * self.width)
        size = (3, *shape, self.dim)
        if self.layout == "last":
            qkv = torch.randn(self.batch, shape[2], 3, self.heads, self.dim).permute(2, 0, 3, 1, 4)
        elif self.layout == "first":
            qkv = torch.randn(self.batch, 3, self.heads, self.dim, shape[2]).permute(1, 0, 2, 4, 3)
        else:
            qkv = torch.randn(size)
        qkv = qkv * torch.tensor([self.sharpness, self.sharpness, 1.0])[:, None, None, None, None]
        query, key, value = qkv.to(device, self.dtype)
        if self.keys != shape[2] or self.value_dim != self.dim:
            key, value = (torch.randn(*shape[:2], self.keys, n) for n in (self.dim, self.value_dim))
            key, value = key.to(device, self.dtype), value.to(device, self.dtype)
        tensors = {"query": query, "key": key, "value": value}
        if self.kind == "clamped":
            tensors["scale"] = torch.rand(self.heads, device=device) + 0.1
        return tensors

    def results(self, tensors: dict[str, Tensor], backend: str) -> dict[str, Tensor]:
        leaves = {name: x.detach().requires_grad_() for name, x in tensors.items()}
        options: dict = {"backend": backend}
        if self.kind in FEATURE_MAPS:
            function = ops.linear_attention
            options["feature_map"] = self.kind
        elif self.kind == "clamped":
            function, options["minimum"] = ops.clamped_linear_attention, 0.4 * self.keys * self.dim * 0.16
        else:
            function = getattr(ops, f"{self.kind}_linear_attention")
            if self.rotary:
                generator = torch.Generator().manual_seed(self.seed)
                angle = torch.rand(self.dim // 2, generator=generator).to(tensors["query"].device)
                options.update(angle=angle, size=(self.height, self.width))
        if self.kind == "identity":
            leaves["query"], leaves["key"] = (leaves[n].detach().abs().requires_grad_() for n in ("query", "key"))
        out = function(**leaves, **options)
        generator = torch.Generator().manual_seed(self.seed + 1)
        grad = torch.randn(out.shape, generator=generator).to(out.device, self.dtype).to(out.dtype)
        grads = torch.autograd.grad(out, list(leaves.values()), grad)
        return {"out": out.detach(), **{f"grad_{name}": g for name, g in zip(leaves, grads)}}


def _model_case(kind: str, dtype: torch.dtype, dim: int, side: int = 23, layout: str = "last") -> Case:
    rotary = kind in ("rank_augmented", "magnitude_aware")
    return Case(kind, 2, 2, side, side + 6, side * (side + 6), dim, dim, rotary, 1.0, layout, dtype, seed=1)


# What RAVLT, MAViT, L2ViT and token mixers of a ViT ask for.
MODEL_CASES = (
    *(_model_case(kind, torch.bfloat16, 64, 56) for kind in ("rank_augmented", "magnitude_aware")),
    *(_model_case(kind, torch.bfloat16, 96) for kind in ("rank_augmented", "magnitude_aware")),
    *(_model_case(kind, torch.float16, 64, layout="first") for kind in ("rank_augmented", "magnitude_aware")),
    *(_model_case(kind, torch.float32, 64) for kind in ("rank_augmented", "magnitude_aware")),
    _model_case("rank_augmented", torch.float32, 96),
    *(_model_case("clamped", dtype, 32) for dtype in DTYPES),
    *(_model_case("elu", dtype, 64, layout="first") for dtype in DTYPES[::2]),
)


def random_case(seed: int, dtype: torch.dtype, largest: int) -> Case:
    draw = random.Random(seed)
    kind = KINDS[seed % len(KINDS)]
    own = kind in ("rank_augmented", "magnitude_aware")
    height, width = draw.randint(1, largest), draw.randint(1, largest)
    dim = draw.choice((16, 32, 64, 96, 128)) if own else draw.choice((3, 8, 16, 24, 32, 40, 64, 96, 128))
    same = own or draw.random() < 0.5
    keys = height * width if same else draw.randint(1, largest * largest)
    return Case(
        kind=kind,
        batch=draw.randint(1, 3),
        heads=draw.randint(1, 3),
        height=height,
        width=width,
        keys=keys,
        dim=dim,
        value_dim=dim if same else draw.choice((5, 16, 48, 64, 128)),
        rotary=own and draw.random() < 0.7,
        sharpness=draw.choice((0.3, 1.0, 3.0)),
        layout=draw.choice(("apart", "last", "first")),
        dtype=dtype,
        seed=seed,
    )


def check_case(report: Report, case: Case, device: str) -> None:
    tensors = case.inputs(device)
    expected = case.results({name: x.double() for name, x in tensors.items()}, "reference")
    if case.layout == "apart":
        moved = relayout({n: x for n, x in tensors.items() if n != "scale"}, case.seed)
        tensors = {**tensors, **moved}
    with poisoned_memory():
        first, second = case.results(tensors, "triton"), case.results(tensors, "triton")
    report.compare(case.kind, case.dtype, first, expected, str(case))
    report.same_bits(first, second, str(case))


def check_operator(report: Report, index: int, device: str) -> None:
    """What torch expects of an operator: schema, fake kernel, gradient, tracing."""
    operator = importlib.import_module("visionattn.ops.linear_attention").OPERATORS[index]
    query, key, value = (torch.randn(1, 2, 12, 16, device=device) for _ in range(3))
    angle, scale = torch.rand(8, device=device), torch.ones(2, device=device)
    rest = (("elu", 1e-6), (scale, 5.0), (angle, 3, 4, 1e-6), (angle, 4, 3, 1e-6))[index]
    leaves = [x.clone().requires_grad_() for x in (query, key, value)]
    torch.library.opcheck(operator.forward, (*leaves, *rest))
    with torch.no_grad():
        out, *saved = operator.forward(query, key, value, *rest)
        torch.library.opcheck(operator.backward, (out.clone(), query, key, value, *rest, *saved))


def _check(task: Union[Case, int], device: str) -> Report:
    """One case, or the operator of that index."""
    report = Report()
    try:
        if isinstance(task, Case):
            check_case(report, task, device)
        else:
            check_operator(report, task, device)
    except Exception as error:
        report.failures.append(f"{task}: {type(error).__name__}: {error}")
    return report


def run(cases: int = 3, device: str = "cuda", workers: int = 8) -> Report:
    """Checks the cases of the models, `cases` random ones in every dtype, and the operators.

    Nearly all the time goes into compiling, which is why `workers` processes share the work on a GPU.
    """
    cuda = device == "cuda"
    tasks: list[Union[Case, int]] = [*MODEL_CASES] if cuda else []
    for seed, dtype in itertools.product(range(cases), DTYPES if cuda else DTYPES[:1]):
        tasks.append(random_case(seed, dtype, 40 if cuda else 9))
    tasks.extend(range(4))
    check = functools.partial(_check, device=device)
    if cuda:
        context = multiprocessing.get_context("spawn")
        with concurrent.futures.ProcessPoolExecutor(workers, mp_context=context) as pool:
            reports = list(pool.map(check, tasks))
    else:
        reports = [check(task) for task in tasks]
    report = Report()
    for part in reports:
        report.add(part)
    return report


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--cases", type=int, default=3, help="random problems per dtype")
    parser.add_argument("--workers", type=int, default=8, help="processes that share a GPU")
    parser.add_argument("--output", type=Path, help="JSON file for the largest errors")
    parser.add_argument("--device", default="cuda")
    options = parser.parse_args()
    return run(options.cases, options.device, options.workers).finish(options.output)


if __name__ == "__main__":
    sys.exit(main())
