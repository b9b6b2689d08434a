"""Neighborhood attention at the shapes of the papers' models, beside dense and flexible attention."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import Any, Dict, List, Optional, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor

from visionattn import ops
from visionattn.engine.benchmark_suites.problem import Maker, Problem
from visionattn.ops.reference.neighborhood import windows

__all__ = ["CPU_CASES", "NA_CASES", "Case"]


@dataclass(frozen=True)
class Case(Problem):
    """One problem of neighborhood attention.

    Attributes:
        label: Where it comes from.
        batch: Batch size.
        spatial: Map.
        heads: Attention heads.
        head_dim: Channels per head.
        kernel_size: Window per axis.
        dilation: On every axis.
        rpb: With the relative positional bias and its gradient.
        goal: Times of forward, and of forward with backward, over the floor that we want to reach.
        natten_ms: The same of NATTEN 0.21.7's Hopper kernels on an H200 (without bias), for comparison.
    """

    label: str
    batch: int
    spatial: Tuple[int, ...]
    heads: int
    head_dim: int
    kernel_size: Tuple[int, ...]
    dilation: int = 1
    rpb: bool = True
    goal: Tuple[Optional[float], Optional[float]] = (2.5, 3.5)
    natten_ms: Tuple[Optional[float], Optional[float]] = (None, None)

    @property
    def name(self) -> str:
        size = "x".join(map(str, self.spatial))
        sizes = self.kernel_size[:1] if len(set(self.kernel_size)) == 1 else self.kernel_size
        kernel = "x".join(map(str, sizes))
        gap = f" d{self.dilation}" if self.dilation > 1 else ""
        return f"{self.label}: {self.batch}x{size}, {self.heads}x{self.head_dim}, k{kernel}{gap}"

    @property
    def tokens(self) -> int:
        return math.prod(self.spatial)

    def bytes_moved(self, element_size: int, training: bool) -> float:
        """Query, key, value and output once forward; 12 such tensors with backward."""
        tensor = self.batch * self.tokens * self.heads * self.head_dim * element_size
        return tensor * (12 if training else 4)

    def flops(self, training: bool) -> float:
        forward = 4.0 * self.batch * self.heads * self.tokens * math.prod(self.kernel_size) * self.head_dim
        return forward * (3.5 if training else 1)

    def facts(self, contestant: str, training: bool) -> Dict[str, Any]:
        return {"rpb": self.rpb and contestant != "flex", "natten_ms": self.natten_ms[training]}

    def contestants(self) -> Dict[str, Maker]:
        return {
            "ours": partial(Ours, self),
            "reference": partial(Ours, self, backend="reference"),
            "sdpa": partial(Dense, self),
            "flex": partial(Flex, self),
        }


def _case_2d(label: str, batch: int, side: Any, heads: int, dim: int, kernel: int, dilation: int, **rest: Any) -> Case:
    spatial = side if isinstance(side, tuple) else (side, side)
    return Case(label, batch, spatial, heads, dim, (kernel, kernel), dilation, **rest)


NA_CASES = (
    _case_2d("DiNAT-T stage 1", 128, 56, 2, 32, 7, 1, natten_ms=(0.837, 3.33)),
    _case_2d("DiNAT-T stage 1", 128, 56, 2, 32, 7, 8, natten_ms=(0.774, 3.33)),
    _case_2d("DiNAT-T stage 2", 128, 28, 4, 32, 7, 1, natten_ms=(0.257, 1.34)),
    _case_2d("DiNAT-T stage 2", 128, 28, 4, 32, 7, 4, natten_ms=(0.257, 1.34)),
    _case_2d("DiNAT-T stage 3", 128, 14, 8, 32, 7, 1, natten_ms=(0.121, 0.572)),
    _case_2d("DiNAT-T stage 3", 128, 14, 8, 32, 7, 2, natten_ms=(0.104, 0.626)),
    _case_2d("DiNAT-T stage 4", 128, 7, 16, 32, 7, 1, goal=(3, 4)),
    _case_2d("DiNAT-L stage 1", 64, 56, 6, 32, 7, 1, natten_ms=(0.904, 4.05)),
    _case_2d("DiNAT-L stage 1", 64, 56, 6, 32, 7, 8, natten_ms=(0.904, 4.05)),
    _case_2d("DiNAT-L stage 3", 64, 14, 24, 32, 7, 1, natten_ms=(0.168, 0.818)),
    _case_2d("DiNAT-L stage 3", 64, 14, 24, 32, 7, 2, natten_ms=(0.168, 0.818)),
    _case_2d("DiNAT-L 384", 16, 96, 6, 32, 11, 1, goal=(3.5, 5), natten_ms=(0.679, 2.95)),
    _case_2d("DiNAT-L 384", 16, 96, 6, 32, 11, 8, goal=(3.5, 5), natten_ms=(0.679, 2.95)),
    _case_2d("detection", 2, (200, 304), 6, 32, 7, 1, goal=(3, 4), natten_ms=(0.609, 2.65)),
    _case_2d("detection", 2, (200, 304), 6, 32, 7, 28, goal=(3, 4), natten_ms=(0.609, 2.65)),
    _case_2d("ViT-like", 8, 64, 12, 64, 13, 1, rpb=False, goal=(4, 6), natten_ms=(0.413, 1.62)),
    _case_2d("FLUX 4k", 1, 256, 24, 128, 80, 1, rpb=False, goal=(2.7, 3.5), natten_ms=(17.6, 79.5)),
    Case("Hunyuan 3-D", 1, (30, 48, 80), 24, 128, (18, 24, 24), rpb=False, goal=(4, 5), natten_ms=(75.7, None)),
)
CPU_CASES = (
    _case_2d("DiNAT stage 1", 8, 56, 4, 32, 7, 1, goal=(None, None)),
    _case_2d("DiNAT stage 1", 8, 56, 4, 32, 7, 8, goal=(None, None)),
    _case_2d("DiNAT stage 3", 8, 14, 8, 32, 7, 2, goal=(None, None)),
)


class Ours:
    """visionattn's operator on slices of a packed projection, by any of its backends."""

    def __init__(self, case: Case, device: torch.device, dtype: torch.dtype, backend: str = "auto"):
        shape = (case.batch, *case.spatial, 3, case.heads, case.head_dim)
        self.qkv = torch.randn(shape, device=device, dtype=dtype)
        self.rpb = None
        if case.rpb:
            self.rpb = torch.randn(case.heads, *(2 * k - 1 for k in case.kernel_size), device=device)
        self.options = dict(kernel_size=case.kernel_size, dilation=case.dilation, backend=backend)
        self.grad = torch.randn((case.batch, *case.spatial, case.heads, case.head_dim), device=device, dtype=dtype)

    def leaves(self) -> List[Tensor]:
        return [self.qkv] if self.rpb is None else [self.qkv, self.rpb]

    def forward(self) -> Tensor:
        return ops.na_qkv(self.qkv, rpb=self.rpb, **self.options)


class Dense:
    """Full self-attention over the map through SDPA: what a window saves is the difference. No bias."""

    def __init__(self, case: Case, device: torch.device, dtype: torch.dtype):
        shape = (case.batch, case.heads, case.tokens, case.head_dim)
        self.tensors = [torch.randn(shape, device=device, dtype=dtype) for _ in range(3)]
        self.grad = torch.randn(shape, device=device, dtype=dtype)

    def leaves(self) -> List[Tensor]:
        return self.tensors

    def forward(self) -> Tensor:
        return F.scaled_dot_product_attention(*self.tensors)


class Flex(Dense):
    """FlexAttention with the neighborhood as a block mask, compiled. No bias."""

    def __init__(self, case: Case, device: torch.device, dtype: torch.dtype):
        from torch.nn.attention.flex_attention import create_block_mask, flex_attention

        super().__init__(case, device, dtype)
        axes = []
        stride = 1
        for length, kernel in reversed(list(zip(case.spatial, case.kernel_size))):
            table = windows([length], [kernel], [1], [case.dilation], [False], device)
            allowed = torch.zeros(length, length, dtype=torch.bool, device=device)
            allowed.scatter_(1, table.index, True)
            axes.append((stride, length, allowed))
            stride *= length

        def mask(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
            result = None
            for step, length, allowed in axes:
                here = allowed[query // step % length, key // step % length]
                result = here if result is None else result & here
            return result

        self.mask = create_block_mask(mask, None, None, case.tokens, case.tokens, device=device, _compile=True)
        self.function = torch.compile(flex_attention, dynamic=False)

    def forward(self) -> Tensor:
        return self.function(*self.tensors, block_mask=self.mask)
