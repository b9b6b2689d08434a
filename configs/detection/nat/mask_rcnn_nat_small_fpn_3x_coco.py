"""Mask R-CNN with NAT-Small on COCO, 3x: 48.4 box AP, 43.2 mask AP in the paper."""

_base_ = [
    "../../_base_/models/mask_rcnn.py",
    "../../_base_/datasets/coco_instance_multiscale.py",
    "../../_base_/schedules/coco_3x.py",
    "../../_base_/runtime/mmdet.py",
]

model = dict(
    backbone=dict(
        model_name="nat_small",
        drop_path_rate=0.35,
        init_cfg=dict(type="Pretrained", checkpoint="checkpoints/nat_small.pth"),
    ),
    neck=dict(in_channels=[96, 192, 384, 768]),
)
