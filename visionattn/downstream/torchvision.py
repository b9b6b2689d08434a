"""torchvision's detectors on any backbone of timm, ours included, through a feature pyramid network.

`mask_rcnn`, `faster_rcnn`, `retinanet` and `fcos` return torchvision's own classes: they take and return what those do
(https://docs.pytorch.org/vision/stable/models.html#object-detection).
"""

from __future__ import annotations

import inspect
from collections import OrderedDict
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple, Union

import timm
from timm.data import resolve_data_config
from torch import Tensor, nn
from torch.utils._pytree import tree_map
from torchvision.models.detection import FCOS, FasterRCNN, MaskRCNN, RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import ExtraFPNBlock, LastLevelMaxPool, LastLevelP6P7

from visionattn.downstream.pyramid import FeaturePyramid

__all__ = ["PyramidWithFPN", "faster_rcnn", "fcos", "mask_rcnn", "retinanet"]


class PyramidWithFPN(nn.Module):
    """A backbone as torchvision's detectors want it: ordered maps of equal width, and `out_channels`.

    Args:
        pyramid: The backbone.
        out_channels: Width of the maps.
        extra_blocks: torchvision's block that adds coarser maps.

    Attributes:
        strides: Stride of each map, the added ones included.
    """

    def __init__(self, pyramid: FeaturePyramid, out_channels: int, extra_blocks: ExtraFPNBlock):
        super().__init__()
        self.pyramid = pyramid
        self.fpn = FeaturePyramidNetwork(pyramid.channels, out_channels, extra_blocks)
        self.out_channels = out_channels
        added = 2 if isinstance(extra_blocks, LastLevelP6P7) else 1
        self.strides = [*pyramid.strides, *(pyramid.strides[-1] * 2 ** (i + 1) for i in range(added))]

    def forward(self, images: Tensor) -> Dict[str, Tensor]:
        """`[B, C, H, W]` to maps `[B, out_channels, H / stride, W / stride]` by name."""
        maps = self.pyramid(images)
        return self.fpn(OrderedDict((str(i), feature) for i, feature in enumerate(maps)))


def mask_rcnn(
    backbone: str,
    num_classes: int = 91,
    fpn_channels: int = 256,
    anchor_sizes: Optional[Sequence[Union[int, Sequence[int]]]] = None,
    box_channels: int = 1024,
    mask_channels: Sequence[int] = (256, 256, 256, 256),
    **arguments: Any,
) -> MaskRCNN:
    """Mask R-CNN (He et al., ICCV 2017) with an FPN.

    Args:
        backbone: Any model of timm with a pyramid of features, such as "dinat_tiny".
        num_classes: Classes, the background (0) included.
        fpn_channels: Width of the FPN.
        anchor_sizes: Side of the anchors in pixels, one or several for each map; default 8 times its stride.
        box_channels: Width of the box head.
        mask_channels: Widths of the mask head's convolutions.
        **arguments: Of torchvision's `MaskRCNN` (`min_size`, `box_score_thresh`, ...), all others of `FeaturePyramid`
            (`frozen_stages`, `pretrained`, `out_indices`, ...) and thereby of the model (`drop_path_rate`, `dilations`,
            ...). Images are normalised as the backbone wants unless `image_mean` and `image_std` are given.

    Raises:
        TypeError: an argument that nobody knows.
        ValueError: an unknown backbone, or as many anchor sizes as there are no maps.
    """
    detector = _faster_or_mask_rcnn(
        MaskRCNN,
        backbone,
        num_classes,
        fpn_channels,
        anchor_sizes,
        box_channels,
        mask_head=MaskRCNNHeads(fpn_channels, list(mask_channels), 1),
        mask_predictor=MaskRCNNPredictor(mask_channels[-1], mask_channels[-1], num_classes),
        **arguments,
    )
    _in_full_precision(detector.roi_heads.mask_predictor)
    return detector


def faster_rcnn(
    backbone: str,
    num_classes: int = 91,
    fpn_channels: int = 256,
    anchor_sizes: Optional[Sequence[Union[int, Sequence[int]]]] = None,
    box_channels: int = 1024,
    **arguments: Any,
) -> FasterRCNN:
    """Faster R-CNN (Ren et al., NeurIPS 2015) with an FPN; arguments and errors as of `mask_rcnn`."""
    return _faster_or_mask_rcnn(
        FasterRCNN, backbone, num_classes, fpn_channels, anchor_sizes, box_channels, **arguments
    )


def retinanet(
    backbone: str,
    num_classes: int = 91,
    fpn_channels: int = 256,
    anchor_sizes: Optional[Sequence[Union[int, Sequence[int]]]] = None,
    **arguments: Any,
) -> RetinaNet:
    """RetinaNet (Lin et al., ICCV 2017) on the last three stages unless `out_indices` says otherwise.

    Arguments and errors as of `mask_rcnn`; the anchors' default is 4 times the stride, in three sizes an octave.
    """
    features, given = _backbone(RetinaNet, backbone, fpn_channels, LastLevelP6P7, (1, 2, 3), arguments)
    sizes = anchor_sizes or [[int(4 * stride * 2 ** (i / 3)) for i in range(3)] for stride in features.strides]
    detector = RetinaNet(features, num_classes, anchor_generator=_anchors(sizes, features), **given)
    _in_full_precision(detector.head)
    return detector


def fcos(backbone: str, num_classes: int = 91, fpn_channels: int = 256, **arguments: Any) -> FCOS:
    """FCOS (Tian et al., ICCV 2019) on the last three stages unless `out_indices` says otherwise.

    Arguments and errors as of `mask_rcnn`, without anchors.
    """
    features, given = _backbone(FCOS, backbone, fpn_channels, LastLevelP6P7, (1, 2, 3), arguments)
    anchors = _anchors(features.strides, features, aspect_ratios=(1.0,))
    detector = FCOS(features, num_classes, anchor_generator=anchors, **given)
    _in_full_precision(detector.head)
    return detector


def _faster_or_mask_rcnn(
    kind: type,
    backbone: str,
    num_classes: int,
    fpn_channels: int,
    anchor_sizes: Optional[Sequence[Union[int, Sequence[int]]]],
    box_channels: int,
    **arguments: Any,
) -> FasterRCNN:
    features, given = _backbone(kind, backbone, fpn_channels, LastLevelMaxPool, (0, 1, 2, 3), arguments)
    resolution = 7  # of the boxes that the head sees, as torchvision pools them
    detector = kind(
        features,
        rpn_anchor_generator=_anchors(anchor_sizes or [8 * stride for stride in features.strides], features),
        box_head=TwoMLPHead(fpn_channels * resolution**2, box_channels),
        box_predictor=FastRCNNPredictor(box_channels, num_classes),
        **given,
    )
    _in_full_precision(detector.rpn.head, detector.roi_heads.box_predictor)
    return detector


def _backbone(
    kind: type,
    name: str,
    fpn_channels: int,
    extra: type,
    out_indices: Tuple[int, ...],
    arguments: Mapping[str, Any],
) -> Tuple[PyramidWithFPN, Dict[str, Any]]:
    """The backbone, and those of the arguments that are the detector's."""
    known = {*inspect.signature(kind).parameters, *inspect.signature(GeneralizedRCNNTransform).parameters} - {"kwargs"}
    given = {key: value for key, value in arguments.items() if key in known}
    others = {key: value for key, value in arguments.items() if key not in known}
    if not timm.is_model(name):
        raise ValueError(f"backbone must be a model of timm or visionattn, got {name!r}")
    pyramid = FeaturePyramid(name, **{"out_indices": out_indices, **others})
    cfg = resolve_data_config(pretrained_cfg=pyramid.body.model.pretrained_cfg)
    given = {"image_mean": list(cfg["mean"]), "image_std": list(cfg["std"]), **given}
    extra_blocks = extra() if extra is LastLevelMaxPool else extra(fpn_channels, fpn_channels)
    return PyramidWithFPN(pyramid, fpn_channels, extra_blocks), given


def _anchors(
    sizes: Sequence[Union[int, Sequence[int]]],
    features: PyramidWithFPN,
    aspect_ratios: Tuple[float, ...] = (0.5, 1.0, 2.0),
) -> AnchorGenerator:
    if len(sizes) != len(features.strides):
        raise ValueError(
            f"anchor_sizes must have an entry for each of the {len(features.strides)} maps with strides "
            f"{', '.join(map(str, features.strides))}, got {len(sizes)}"
        )
    rows = tuple((size,) if isinstance(size, (int, float)) else tuple(size) for size in sizes)
    return AnchorGenerator(rows, (aspect_ratios,) * len(rows))


def _in_full_precision(*heads: nn.Module) -> None:
    """Lets the results of a head be float32 under autocast.

    torchvision turns boxes into the precision of what the heads predict, and bfloat16 knows no difference between the
    pixels 513 and 514.
    """
    for head in heads:
        head.register_forward_hook(_to_float)


def _to_float(module: nn.Module, inputs: List[Any], results: Any) -> Any:
    return tree_map(lambda value: value.float() if isinstance(value, Tensor) else value, results)
