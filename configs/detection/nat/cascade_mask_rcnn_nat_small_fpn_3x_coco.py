"""Cascade Mask R-CNN with NAT-Small on COCO, 3x: 52.0 box AP, 44.9 mask AP in the paper."""

_base_ = [
    "../../_base_/models/cascade_mask_rcnn.py",
    "../../_base_/datasets/coco_instance_multiscale.py",
    "../../_base_/schedules/coco_3x.py",
    "../../_base_/runtime/mmdet.py",
]

model = dict(
    backbone=dict(
        model_name="nat_small",
        drop_path_rate=0.3,
        init_cfg=dict(type="Pretrained", checkpoint="checkpoints/nat_small.pth"),
    ),
    neck=dict(in_channels=[96, 192, 384, 768]),
)
