"""Mask R-CNN with MambaOut-Base on COCO, 1x: 47.4 box AP, 43.0 mask AP in the paper.

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
        model_name="mambaout_base",
        drop_path_rate=0.6,
        init_cfg=dict(type="Pretrained", checkpoint="checkpoints/mambaout_base.pth"),
    ),
    neck=dict(in_channels=[128, 256, 512, 768]),
)
