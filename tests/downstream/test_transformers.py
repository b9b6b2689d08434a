"""transformers' detectors and segmenters on our backbones, through its TimmBackbone: nothing of ours is in between."""

import pytest
import torch
from transformers import (
    DetrConfig,
    DetrForObjectDetection,
    Mask2FormerConfig,
    Mask2FormerForUniversalSegmentation,
    TimmBackbone,
    TimmBackboneConfig,
    UperNetConfig,
    UperNetForSemanticSegmentation,
)

import visionattn  # noqa: F401  registers our models with timm

BOXES = [{"class_labels": torch.tensor([1]), "boxes": torch.tensor([[0.5, 0.5, 0.2, 0.4]])}]


def backbone(name, *stages):
    return TimmBackboneConfig(backbone=name, out_indices=list(stages))


def detr(name):
    small = {"d_model": 32, "encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32}
    config = DetrConfig(backbone_config=backbone(name, 3), num_queries=5, num_labels=3, **small)
    return DetrForObjectDetection(config), {"labels": BOXES}


def upernet(name):
    features = backbone(name, 0, 1, 2, 3)
    channels = TimmBackbone(features).channels
    config = UperNetConfig(
        backbone_config=features, hidden_size=16, auxiliary_in_channels=channels[2], auxiliary_channels=16, num_labels=4
    )
    return UperNetForSemanticSegmentation(config), {"labels": torch.zeros(2, 64, 64, dtype=torch.long)}


def mask2former(name):
    small = {"feature_size": 32, "mask_feature_size": 32, "hidden_dim": 32, "encoder_layers": 1, "decoder_layers": 2}
    config = Mask2FormerConfig(
        backbone_config=backbone(name, 0, 1, 2, 3),
        num_queries=5,
        num_labels=3,
        encoder_feedforward_dim=32,
        dim_feedforward=32,
        train_num_points=64,
        **small,
    )
    masks = [torch.zeros(1, 64, 64).index_fill(1, torch.arange(20), 1.0)] * 2
    targets = {"mask_labels": masks, "class_labels": [torch.tensor([1])] * 2}
    return Mask2FormerForUniversalSegmentation(config), targets


@pytest.mark.parametrize("name", ["dinat_test", "ravlt_test"])
@pytest.mark.parametrize("make", [detr, upernet, mask2former])
def test_trains_and_round_trips(make, name, tmp_path):
    torch.manual_seed(0)
    model, targets = make(name)
    images = torch.randn(2, 3, 64, 64)
    if "labels" in targets and isinstance(targets["labels"], list):
        targets = {"labels": targets["labels"] * 2}
    model.train()
    model(pixel_values=images, **targets).loss.backward()
    weights = [param for key, param in model.named_parameters() if "backbone" in key]
    assert len(weights) > 20
    assert all(param.grad is not None for param in weights if param.requires_grad)
    model.save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path).eval()
    with torch.no_grad():
        one, two = (net.eval()(pixel_values=images)[0] for net in (model, again))
    torch.testing.assert_close(one, two)
