"""Losses of segmenters."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

__all__ = ["IGNORED", "dice_loss"]

IGNORED = 255  # label of pixels that don't count


def dice_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """One minus the mean overlap of the classes that occur (soft Dice; Milletari et al., 3DV 2016, eq. 3, unsquared).

    Args:
        logits: `[batch, classes, H, W]`.
        labels: `[batch, H, W]` int64; 255 doesn't count.
    """
    counted = (labels != IGNORED)[:, None]
    truth = F.one_hot(labels.where(labels != IGNORED, 0), logits.shape[1]).permute(0, 3, 1, 2) * counted
    probabilities = logits.softmax(1) * counted
    axes = (0, 2, 3)
    occurs = (truth.sum(axes) > 0).float()
    overlap = 2 * (probabilities * truth).sum(axes) / (probabilities + truth).sum(axes).clamp_min(1e-6)
    return 1 - (overlap * occurs).sum() / occurs.sum().clamp_min(1)
