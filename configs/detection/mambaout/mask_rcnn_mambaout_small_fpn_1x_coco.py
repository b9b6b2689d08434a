"""Mask R-CNN with MambaOut-Small on COCO, 1x: 47.4 box AP, 42.7 mask AP in the paper.

The paper does not tell the drop path here: the one of classification. Nor weight decay: Swin's.
"""

_base_ = [
    "../../_base_/models/mask_rcnn.py",
    "mmdet::_base_/datasets/coco_instance.py",
    "../../_base_/schedules/coco_1x.py",
    "../../_base_/runtime/mmdet.py",
]

model = dict(
    backbone=dict(
        model_name="mambaout_small",
        drop_path_rate=0.4,
        init_cfg=dict(type="Pretrained", checkpoint="checkpoints/mambaout_small.pth"),
    ),
    neck=dict(in_channels=[96, 192, 384, 576]),
)
