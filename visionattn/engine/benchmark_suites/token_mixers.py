"""Flow-Attention, attention within a disc and SOFT's Newton inverse, beside their plain PyTorch."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, Callable, Dict, List, Optional, Tuple

import torch
from torch import Tensor

from visionattn import ops
from visionattn.engine.benchmark_suites.problem import Maker, Problem
from visionattn.ops import reference
from visionattn.ops.circular_attention import blockwise

__all__ = ["TOKEN_MIXER_CASES", "DiscCase", "FlowCase", "InverseCase"]


class _Inputs:
    """A function on given inputs."""

    def __init__(self, leaves: List[Tensor], grad: Tensor, function: Callable[..., Tensor]):
        self._leaves, self.grad, self.function = leaves, grad, function

    def leaves(self) -> List[Tensor]:
        return self._leaves

    def forward(self) -> Tensor:
        return self.function(*self._leaves)


@dataclass(frozen=True)
class InverseCase(Problem):
    """Inverses of `batch` times `heads` Gram matrices of `size` landmarks, always in float32.

    Attributes:
        batch: Batch size.
        heads: Attention heads.
        size: Rows of a matrix.
        method: Of `visionattn.ops.newton_inverse`.
        goal: See `Problem`; the aim is five times the speed of "plain", whatever the floor.
    """

    batch: int
    heads: int
    size: int
    method: str = "damped"
    goal: Tuple[Optional[float], Optional[float]] = (None, None)

    @property
    def name(self) -> str:
        return f"newton_inverse, {self.method}: {self.batch}x{self.heads}, {self.size}x{self.size}"

    def bytes_moved(self, element_size: int, training: bool) -> float:
        return 4.0 * self.batch * self.heads * self.size**2 * (5 if training else 2)

    def flops(self, training: bool) -> float:
        products = 40 if not training else (42 if self.method == "damped" else 160)
        return 2.0 * products * self.batch * self.heads * self.size**3

    def _make(self, function: Callable[..., Tensor], device: torch.device, dtype: torch.dtype) -> _Inputs:
        points = torch.randn(self.batch, self.heads, self.size, 32, device=device) * 0.6
        matrix = ops.gaussian_kernel(points, points)
        return _Inputs([matrix], torch.randn_like(matrix), function)

    def contestants(self) -> Dict[str, Maker]:
        plain = partial(reference.newton_inverse, method=self.method, max_iter=20, normalize=False)
        own = partial(ops.newton_inverse, method=self.method)
        functions = {"ours": own, "reference": partial(own, backend="reference"), "plain": plain}
        functions["compiled"] = torch.compile(plain, dynamic=False)
        return {name: partial(self._make, function) for name, function in functions.items()}


@dataclass(frozen=True)
class FlowCase(Problem):
    """Flow-Attention on slices of a packed projection.

    Attributes:
        batch: Batch size.
        tokens: Tokens.
        heads: Attention heads.
        head_dim: Channels per head.
        goal: See `Problem`.
    """

    batch: int
    tokens: int
    heads: int
    head_dim: int
    goal: Tuple[Optional[float], Optional[float]] = (3.0, 4.0)
    kind = "flow_attention"

    @property
    def name(self) -> str:
        return f"{self.kind}: {self.batch}x{self.tokens}, {self.heads}x{self.head_dim}"

    def bytes_moved(self, element_size: int, training: bool) -> float:
        """Query, key, value and output; backward four tensors in and three out."""
        return self.batch * self.tokens * self.heads * self.head_dim * element_size * (11.0 if training else 4.0)

    def flops(self, training: bool) -> float:
        return 4.0 * self.batch * self.tokens * self.heads * self.head_dim**2 * (3.5 if training else 1)

    def _functions(self) -> Dict[str, Callable[..., Tensor]]:
        plain = partial(reference.flow_attention, eps=1e-6, flow_eps=1e-6, clamp=True)
        own = ops.flow_attention
        return {"ours": own, "reference": partial(own, backend="reference"), "plain": plain}

    def _make(self, function: Callable[..., Tensor], device: torch.device, dtype: torch.dtype) -> _Inputs:
        packed = torch.randn(self.batch, self.tokens, 4, self.heads, self.head_dim, device=device, dtype=dtype)
        *qkv, grad = packed.permute(2, 0, 3, 1, 4)
        return _Inputs([x.detach() for x in qkv], grad, function)

    def contestants(self) -> Dict[str, Maker]:
        functions: Dict[str, Any] = self._functions()
        functions["compiled"] = torch.compile(functions["plain"], dynamic=False)
        return {name: partial(self._make, function) for name, function in functions.items()}


@dataclass(frozen=True)
class DiscCase(FlowCase):
    """Attention within a disc on slices of a packed projection; "plain" is by tiles, "reference" by a dense mask.

    Attributes:
        radius: Of the disc.
    """

    radius: int = 8
    goal: Tuple[Optional[float], Optional[float]] = (None, None)
    kind = "circular_attention"

    @property
    def name(self) -> str:
        return f"{super().name}, radius {self.radius}"

    def flops(self, training: bool) -> float:
        """Logits and sums over the points of a whole disc."""
        reach = range(-self.radius, self.radius + 1)
        points = sum(y * y + x * x < self.radius**2 for y in reach for x in reach)
        return 4.0 * self.batch * self.tokens * self.heads * points * self.head_dim * (3.5 if training else 1)

    def _functions(self) -> Dict[str, Callable[..., Tensor]]:
        side = round(self.tokens**0.5)
        own = partial(ops.circular_attention, radius=self.radius, size=(side, side))
        plain = partial(
            blockwise, extra_key=None, extra_value=None, height=side, width=side, radius=self.radius,
            scale=self.head_dim**-0.5,
        )  # fmt: skip
        return {"ours": own, "reference": partial(own, backend="reference"), "plain": plain}


TOKEN_MIXER_CASES = (
    InverseCase(128, 2, 49),
    InverseCase(128, 10, 49),
    InverseCase(128, 10, 49, "global"),
    FlowCase(32, 3136, 6, 64),
    FlowCase(8, 12544, 6, 64),
    FlowCase(2, 65536, 6, 64),
    DiscCase(8, 4096, 12, 64),
)
