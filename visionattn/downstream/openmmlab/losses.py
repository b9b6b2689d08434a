"""A loss for the heads of mmsegmentation."""

from __future__ import annotations

from mmengine.registry import MODELS
from torch import Tensor, nn

from visionattn.downstream.losses import IGNORED, dice_loss

__all__ = ["BatchDiceLoss"]


@MODELS.register_module()
class BatchDiceLoss(nn.Module):
    """Dice loss per class over a batch; mmsegmentation's own is per image, over all classes together.

    Args:
        loss_weight: Factor.
    """

    loss_name = "loss_dice"

    def __init__(self, loss_weight: float = 1.0):
        super().__init__()
        self.loss_weight = loss_weight

    def forward(self, logits: Tensor, labels: Tensor, weight: None = None, ignore_index: int = IGNORED) -> Tensor:
        """Computes the loss.

        Args:
            logits: `[batch, classes, H, W]`.
            labels: `[batch, H, W]` int64.
            weight: Not taken; heads pass it.
            ignore_index: Label of pixels that don't count.

        Returns:
            A scalar.
        """
        return self.loss_weight * dice_loss(logits, labels.where(labels != ignore_index, IGNORED))
