"""Linear attentions at the maps of 224, 448 and 1024 pixel images, beside their plain PyTorch."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, Callable, Dict, List, Optional, Tuple

import torch
from torch import Tensor

from visionattn import ops
from visionattn.engine.benchmark_suites.problem import Maker, Problem
from visionattn.ops import reference

__all__ = ["LINEAR_CASES", "LinearCase"]


@dataclass(frozen=True)
class LinearCase(Problem):
    """One problem of a linear attention on a square map.

    Attributes:
        operator: Name in `visionattn.ops`.
        batch: Batch size.
        side: Side of the map.
        heads: Attention heads.
        head_dim: Channels per head.
        channels_last: Layout of the projection that query, key and value are slices of.
        goal: Times of forward, and of forward with backward, over the floor that we want to reach.
    """

    operator: str
    batch: int
    side: int
    heads: int
    head_dim: int
    channels_last: bool = True
    goal: Tuple[Optional[float], Optional[float]] = (3.0, 4.0)

    @property
    def name(self) -> str:
        layout = "" if self.channels_last else " channels-first"
        size = f"{self.batch}x{self.side}x{self.side}, {self.heads}x{self.head_dim}"
        return f"{self.operator.removesuffix('_linear_attention')}: {size}{layout}"

    def bytes_moved(self, element_size: int, training: bool) -> float:
        """Query, key, value and output; backward four tensors in and three out."""
        tensor = self.batch * self.side**2 * self.heads * self.head_dim * element_size
        return tensor * (11 if training else 4)

    def flops(self, training: bool) -> float:
        forward = 4.0 * self.batch * self.side**2 * self.heads * self.head_dim**2
        return forward * (3.5 if training else 1)

    def contestants(self) -> Dict[str, Maker]:
        """Ours; its reference, in float32 inside; the same formula in the inputs' dtype, eager and compiled."""
        own, plain = getattr(ops, self.operator), getattr(reference, self.operator)
        return {
            "ours": partial(Slices, self, own, False),
            "reference": partial(Slices, self, partial(own, backend="reference"), False),
            "plain": partial(Slices, self, partial(plain, wide=False), True),
            "compiled": partial(Slices, self, torch.compile(partial(plain, wide=False), dynamic=False), True),
        }


class Slices:
    """A linear attention on slices of a packed projection.

    Args:
        case: The problem.
        function: Takes query, key, value and the operator's own arguments.
        raw: Whether it takes them as functions of `ops.reference` do.
        device: Where to run.
        dtype: Of the projection.
    """

    def __init__(
        self, case: LinearCase, function: Callable[..., Tensor], raw: bool, device: torch.device, dtype: torch.dtype
    ):
        tokens = case.side**2
        if case.channels_last:
            packed = torch.randn(case.batch, tokens, 4, case.heads, case.head_dim, device=device, dtype=dtype)
            packed = packed.permute(2, 0, 3, 1, 4)
        else:
            packed = torch.randn(case.batch, 4, case.heads, case.head_dim, tokens, device=device, dtype=dtype)
            packed = packed.permute(1, 0, 2, 4, 3)
        self.qkv = [x.detach() for x in packed[:3]]
        self.grad = packed[3]
        self.function = function
        arguments: Tuple[Any, ...] = (1e-6,)
        if case.operator == "linear_attention":
            arguments = ("elu", 1e-6)
        elif case.operator == "clamped_linear_attention":
            arguments = (torch.full((case.heads,), case.head_dim**-0.5, device=device), 100.0)
        else:
            angle = 1.0 / 10000 ** torch.linspace(0, 1, case.head_dim // 4, device=device).repeat_interleave(2)
            arguments = (angle, case.side, case.side, 1e-6) if raw else (angle, (case.side, case.side), 1e-6)
        self.arguments = arguments

    def leaves(self) -> List[Tensor]:
        return self.qkv

    def forward(self) -> Tensor:
        return self.function(*self.qkv, *self.arguments)


_SIZES = ((128, 56), (32, 112), (8, 256))  # about as many tokens in each batch
_RALA, _MALA = "rank_augmented_linear_attention", "magnitude_aware_linear_attention"
LINEAR_CASES = (
    *(LinearCase(name, batch, side, 1, 64) for name in (_RALA, _MALA) for batch, side in _SIZES),
    *(LinearCase(name, 128, 56, 1, 96) for name in (_RALA, _MALA)),
    *(LinearCase(name, 128, 56, 1, 64, channels_last=False) for name in (_RALA, _MALA)),
    *(LinearCase("clamped_linear_attention", batch, side, 3, 32) for batch, side in _SIZES),
    *(LinearCase("linear_attention", batch, side, 6, 64) for batch, side in ((32, 56), (8, 112), (2, 256))),
)
