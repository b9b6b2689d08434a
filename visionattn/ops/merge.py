"""Attention over the union of several contexts, from the attention over each."""

from __future__ import annotations

from typing import Sequence

import torch
from torch import Tensor

from visionattn.ops import _arguments as check

__all__ = ["merge_attentions"]


def merge_attentions(outputs: Sequence[Tensor], lses: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Merges partial attentions of the same queries into attention over all their contexts together.

    With the lse of each part known, the merged output is the average of the outputs weighted by `softmax(lses)`. Exact
    and differentiable through both outputs and lses.

    Args:
        outputs: At least one `[batch, *positions, heads, head_dim]`, any floating dtype.
        lses: As many `[batch, *positions, heads]`: natural-log log-sum-exp of each part's logits.

    Returns:
        Output in the dtype of `outputs[0]`, and its lse in float32 (float64 for float64).

    Raises:
        TypeError: not sequences of floating-point tensors, or of mixed dtypes.
        ValueError: different numbers of outputs and lses, or shapes that do not fit.
    """
    if isinstance(outputs, Tensor) or isinstance(lses, Tensor):
        raise TypeError("outputs and lses must be sequences of tensors, got a tensor")
    if len(outputs) != len(lses) or not outputs:
        raise ValueError(f"outputs and lses must be of the same length, at least 1, got {len(outputs)} and {len(lses)}")
    first = outputs[0]
    for i, (output, lse) in enumerate(zip(outputs, lses)):
        check.check_tensor(f"outputs[{i}]", output, like=first)
        check.check_tensor(f"lses[{i}]", lse)
        check.check_shape(f"outputs[{i}]", output, tuple(first.shape), "that of outputs[0]")
        check.check_shape(f"lses[{i}]", lse, tuple(first.shape[:-1]), "that of outputs[0] without channels")
    compute = torch.promote_types(first.dtype, torch.float32)
    stacked = torch.stack([lse.to(compute) for lse in lses])
    merged_lse = stacked.logsumexp(0)
    weights = (stacked - merged_lse).exp()
    merged = sum(weight.unsqueeze(-1) * output.to(compute) for weight, output in zip(weights, outputs))
    return merged.to(first.dtype), merged_lse
