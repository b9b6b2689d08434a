"""Random neighborhood attention problems, and how far a result is from its reference."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, field
from typing import Optional

import torch
from torch import Tensor

from visionattn import ops

FUNCTIONS = {1: ops.na1d, 2: ops.na2d, 3: ops.na3d}


@dataclass
class Case:
    """One call of na1d, na2d or na3d."""

    spatial: tuple[int, ...]
    kernel_size: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    is_causal: tuple[bool, ...]
    batch: int = 2
    heads: int = 2
    heads_kv: int = 2
    dim: int = 8
    dim_value: int = 8
    additional: int = 0
    rpb: bool = False
    packed: bool = False
    clip_window: bool = False
    scale: Optional[float] = None
    seed: int = 0
    dtype: torch.dtype = field(default=torch.float32)

    def inputs(self, device: str = "cpu") -> dict[str, Tensor]:
        """Leaf tensors in `dtype`; with `packed` query, key and value are strided slices of one."""
        generator = torch.Generator().manual_seed(self.seed)

        def draw(*shape: int) -> Tensor:
            x = torch.randn(shape, generator=generator, dtype=torch.float64)
            return x.to(device, self.dtype)

        if self.packed:
            qkv = draw(self.batch, *self.spatial, 3, self.heads, self.dim)
            query, key, value = qkv.unbind(-3)
        else:
            query = draw(self.batch, *self.spatial, self.heads, self.dim)
            key = draw(self.batch, *self.spatial, self.heads_kv, self.dim)
            value = draw(self.batch, *self.spatial, self.heads_kv, self.dim_value)
        tensors = {"query": query, "key": key, "value": value}
        if self.rpb:
            shape = (self.heads, *(2 * k - 1 for k in self.kernel_size))
            tensors["rpb"] = draw(*shape).float() if self.dtype != torch.float64 else draw(*shape)
        if self.additional:
            tensors["additional_keys"] = draw(self.batch, self.additional, self.heads_kv, self.dim)
            tensors["additional_values"] = draw(self.batch, self.additional, self.heads_kv, self.dim_value)
        return tensors

    def run(self, tensors: dict[str, Tensor], **options) -> tuple[Tensor, Tensor]:
        return FUNCTIONS[len(self.spatial)](
            **tensors,
            kernel_size=self.kernel_size,
            stride=self.stride,
            dilation=self.dilation,
            is_causal=self.is_causal,
            scale=self.scale,
            return_lse=True,
            clip_window=self.clip_window,
            **options,
        )

    def results(self, tensors: dict[str, Tensor], lse_weight: float = 1.0, **options) -> dict[str, Tensor]:
        """Output, lse and the gradient of every input of a fixed function of both."""
        leaves = {name: x.detach().requires_grad_() for name, x in tensors.items()}
        out, lse = self.run(leaves, **options)
        generator = torch.Generator().manual_seed(self.seed + 1)
        grad = torch.randn(out.shape, generator=generator, dtype=torch.float64).to(out.device)
        grad_lse = torch.randn(lse.shape, generator=generator, dtype=torch.float64).to(out.device) * lse_weight
        # Quantised like the output, so that a reference in higher precision gets the same gradient.
        grads = torch.autograd.grad(
            (out, lse), list(leaves.values()), (grad.to(self.dtype).to(out.dtype), grad_lse.float().to(lse.dtype))
        )
        return {"out": out.detach(), "lse": lse.detach(), **{f"grad_{n}": g for n, g in zip(leaves, grads)}}

    def reference_results(self, tensors: dict[str, Tensor], **options) -> dict[str, Tensor]:
        """The same in float64 through the reference."""
        wide = {name: x.double() for name, x in tensors.items()}
        return self.results(wide, backend="reference", **options)


def random_case(seed: int, dtype: torch.dtype = torch.float32, max_tokens: int = 400) -> Case:
    """A problem drawn over everything that the operators accept."""
    draw = random.Random(seed)
    rank = draw.choice((1, 2, 2, 3))
    limit = max(3, int(max_tokens ** (1 / rank)))
    spatial, kernel, stride, dilation = [], [], [], []
    clip = draw.random() < 0.15
    for _ in range(rank):
        length = draw.randint(2, limit)
        k = draw.randint(2, min(length, 9)) + (draw.randint(0, 4) if clip else 0)
        d = 1 if draw.random() < 0.5 else draw.randint(1, max(1, length // k) + (1 if clip else 0))
        spatial.append(length)
        kernel.append(k)
        stride.append(1 if draw.random() < 0.6 else draw.randint(1, k))
        dilation.append(d)
    causal = tuple(draw.random() < 0.25 for _ in range(rank))
    packed = draw.random() < 0.3
    heads_kv = draw.choice((1, 2, 3))
    heads = heads_kv * draw.choice((1, 1, 2, 3))
    dim = draw.choice((1, 3, 4, 8, 16, 20, 32, 33, 64))
    return Case(
        spatial=tuple(spatial),
        kernel_size=tuple(kernel),
        stride=tuple(stride),
        dilation=tuple(dilation),
        is_causal=causal,
        batch=draw.choice((1, 1, 2, 3)),
        heads=heads,
        heads_kv=heads if packed else heads_kv,
        dim=dim,
        dim_value=dim if packed else draw.choice((dim, dim, 5, 16, 40)),
        additional=draw.choice((0, 0, 0, 1, 5)),
        rpb=not any(causal) and draw.random() < 0.6,
        packed=packed,
        clip_window=clip,
        scale=draw.choice((None, 0.3)),
        seed=seed,
        dtype=dtype,
    )


def relative_error(actual: Tensor, expected: Tensor) -> float:
    """Norm of the difference over norm of the expected; infinite for NaN. Tiny references count as absolute."""
    expected = expected.double().to(actual.device)
    difference = (actual.double() - expected).norm().item()
    norm = expected.norm().item()
    return math.inf if math.isnan(difference) else difference / max(norm, 1e-3 * max(expected.numel(), 1) ** 0.5)
