"""torchvision's detectors on our backbones: losses, gradients, results, precision, and where arguments go."""

import pytest
import torch
from torch import nn

from visionattn.downstream.torchvision import PyramidWithFPN, faster_rcnn, fcos, mask_rcnn, retinanet

SMALL = {"fpn_channels": 32, "min_size": 64, "max_size": 96}
HEADS = {"box_channels": 16, "box_batch_size_per_image": 8, "rpn_pre_nms_top_n_train": 40, "rpn_pre_nms_top_n_test": 20}
METHODS = {
    "mask_rcnn": (mask_rcnn, {**HEADS, "mask_channels": (8,)}, 5),
    "faster_rcnn": (faster_rcnn, HEADS, 4),
    "retinanet": (retinanet, {}, 2),
    "fcos": (fcos, {}, 3),
}


def images():
    generator = torch.Generator().manual_seed(0)
    return [torch.rand(3, height, width, generator=generator) for height, width in ((60, 80), (64, 64))]


def targets(masks):
    found = []
    for image in images():
        mask = torch.zeros(1, *image.shape[1:], dtype=torch.uint8)
        mask[:, 8:40, 4:44] = 1
        target = {"boxes": torch.tensor([[4.0, 8.0, 44.0, 40.0]]), "labels": torch.tensor([2])}
        found.append({**target, "masks": mask} if masks else target)
    return found


@pytest.mark.parametrize("name", METHODS)
def test_trains_and_detects(name):
    torch.manual_seed(0)
    method, arguments, losses = METHODS[name]
    detector = method("van_test", num_classes=3, drop_path_rate=0.1, **SMALL, **arguments)
    found = detector(images(), targets(name == "mask_rcnn"))
    assert len(found) == losses
    sum(found.values()).backward()
    assert [key for key, param in detector.named_parameters() if param.grad is None] == []
    with torch.no_grad():
        results = detector.eval()(images())
    for result, image in zip(results, images()):
        assert len(result["boxes"]) == len(result["scores"]) == len(result["labels"])
        if name == "mask_rcnn":
            assert result["masks"].shape[1:] == (1, *image.shape[1:])


@pytest.mark.parametrize("name", METHODS)
def test_boxes_keep_their_precision_under_autocast(name):
    """torchvision would round them to bfloat16's eight bits."""
    torch.manual_seed(0)
    method, arguments, _ = METHODS[name]
    score = {"box_score_thresh": 0.0} if name.endswith("rcnn") else {"score_thresh": 0.0}
    detector = method("van_test", num_classes=3, **SMALL, **arguments, **score).eval()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        results = detector([torch.rand(3, 64, 64)] * 2)[0]  # not resized
    boxes = results["boxes"]
    assert len(boxes)
    assert boxes.dtype == results["scores"].dtype == torch.float32
    inner = boxes[(boxes > 0) & (boxes < 64)]
    assert (inner != inner.bfloat16().float()).any()


def test_arguments_go_where_they_belong():
    detector = mask_rcnn(
        "dinat_test", num_classes=3, frozen_stages=1, drop_path_rate=0.3, box_score_thresh=0.7, **SMALL
    )
    assert detector.roi_heads.score_thresh == 0.7
    assert detector.backbone.pyramid.frozen_stages == 1
    assert not any(p.requires_grad for p in detector.backbone.pyramid.body.model.stages[0].parameters())
    assert detector.backbone.pyramid.body.model.stages[-1].blocks[-1].drop_path1.drop_prob == pytest.approx(0.3)
    assert all(isinstance(norm, nn.Module) for norm in detector.backbone.pyramid.norms)


def test_maps_and_anchors_follow_the_strides():
    detector = retinanet("van_test", num_classes=3, **SMALL)
    assert isinstance(detector.backbone, PyramidWithFPN)
    assert detector.backbone.strides == [8, 16, 32, 64, 128]
    assert [sizes[0] for sizes in detector.anchor_generator.sizes] == [32, 64, 128, 256, 512]
    detector = faster_rcnn("van_test", num_classes=3, out_indices=(1, 2), anchor_sizes=(20, (30, 40), 60), **SMALL)
    assert detector.backbone.strides == [8, 16, 32]
    assert detector.rpn.anchor_generator.sizes == ((20,), (30, 40), (60,))
    maps = detector.backbone(torch.rand(1, 3, 64, 96))
    assert [tuple(feature.shape[1:]) for feature in maps.values()] == [(32, 8, 12), (32, 4, 6), (32, 2, 3)]


def test_images_are_normalised_as_the_backbone_wants():
    mean = mask_rcnn("inception_next_atto", num_classes=3, **SMALL).transform.image_mean
    assert mean == pytest.approx((0.485, 0.456, 0.406))
    assert fcos("vit_tiny_patch16_224", num_classes=3, dynamic_img_size=True, **SMALL).transform.image_mean == [0.5] * 3
    assert fcos("van_test", num_classes=3, image_mean=[0.1] * 3, **SMALL).transform.image_mean == [0.1] * 3


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"backbone": "vgg99"}, ValueError, "backbone must be a model"),
        ({"anchor_sizes": (8, 16)}, ValueError, "an entry for each of the 5 maps with strides 4, 8, 16, 32, 64, got 2"),
        ({"out_indices": (0, 9)}, ValueError, "out_indices must be stages"),
        ({"drop_rates": 1}, TypeError, "drop_rates"),
    ],
)
def test_wrong_arguments(arguments, error, message):
    with pytest.raises(error, match=message):
        mask_rcnn(**{"backbone": "van_test", "num_classes": 3, **SMALL, **arguments})
