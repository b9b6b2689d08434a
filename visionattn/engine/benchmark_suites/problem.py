"""What a problem of the operator benchmark tells about itself."""

from __future__ import annotations

from typing import Any, Callable, Dict, List, Optional, Protocol, Tuple

import torch
from torch import Tensor

__all__ = ["Contestant", "Maker", "Problem"]


class Contestant(Protocol):
    """One way to solve a problem, with its inputs.

    Attributes:
        grad: Gradient of the output, for the backward pass.
    """

    grad: Tensor

    def leaves(self) -> List[Tensor]:
        """The inputs that get gradients."""

    def forward(self) -> Tensor:
        """Solves the problem."""


Maker = Callable[[torch.device, torch.dtype], Contestant]


class Problem:
    """One problem of a suite.

    Attributes:
        goal: Times of forward, and of forward with backward, over the floor that we want to reach.
    """

    goal: Tuple[Optional[float], Optional[float]]

    @property
    def name(self) -> str:
        raise NotImplementedError

    def bytes_moved(self, element_size: int, training: bool) -> float:
        """The least that any solution reads and writes, in a forward pass or in forward and backward."""
        raise NotImplementedError

    def flops(self, training: bool) -> float:
        """Floating-point operations of matrix products in a forward pass, or in forward and backward."""
        raise NotImplementedError

    def facts(self, contestant: str, training: bool) -> Dict[str, Any]:
        """More columns of a row."""
        return {}

    def contestants(self) -> Dict[str, Maker]:
        """Ways to solve it, by name; "ours" is one."""
        raise NotImplementedError
