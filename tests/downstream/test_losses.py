"""Losses of segmenters."""

import pytest
import torch
from mmengine.registry import MODELS

import visionattn.downstream.openmmlab  # noqa: F401  registers the loss
from visionattn.downstream.losses import IGNORED, dice_loss

LABELS = torch.tensor([[[0, 0, 2], [0, 2, 2]]])


def logits_of(labels: torch.Tensor, certainty: float) -> torch.Tensor:
    return certainty * torch.nn.functional.one_hot(labels, 4).permute(0, 3, 1, 2).double()


def test_dice_by_hand():
    flat = torch.zeros(1, 4, 2, 3, dtype=torch.float64)  # a quarter for every class
    per_class = 2 * (3 * 0.25) / (6 * 0.25 + 3)  # both classes that occur have three pixels
    assert dice_loss(flat, LABELS).item() == pytest.approx(1 - per_class)
    assert dice_loss(logits_of(LABELS, 50.0), LABELS).item() == pytest.approx(0, abs=1e-12)
    assert dice_loss(logits_of((LABELS + 1) % 4, 50.0), LABELS).item() == pytest.approx(1)


@pytest.mark.parametrize("ignored", [IGNORED, 3])
def test_ignored_pixels_do_not_count(ignored):
    loss = MODELS.build({"type": "BatchDiceLoss", "loss_weight": 2.0})
    labels = torch.cat([LABELS, torch.full_like(LABELS, ignored)], dim=2)
    logits = torch.randn(1, 4, 2, 6, generator=torch.Generator().manual_seed(0)).double().requires_grad_()
    found = loss(logits, labels, weight=None, ignore_index=ignored)
    assert found.item() == pytest.approx(2 * dice_loss(logits[..., :3], LABELS).item())
    (grad,) = torch.autograd.grad(found, logits)
    assert grad[..., 3:].abs().max() == 0 < grad[..., :3].abs().max()


def test_nothing_to_count_is_no_error():
    logits = torch.randn(1, 4, 2, 3, requires_grad=True)
    loss = dice_loss(logits, torch.full_like(LABELS, IGNORED))
    loss.backward()
    assert loss.isfinite()
    assert logits.grad.isfinite().all()
