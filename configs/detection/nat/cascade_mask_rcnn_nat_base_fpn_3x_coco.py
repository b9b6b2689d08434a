"""Cascade Mask R-CNN with NAT-Base on COCO, 3x: 52.3 box AP, 45.1 mask AP in the paper."""

_base_ = [
    "../../_base_/models/cascade_mask_rcnn.py",
    "../../_base_/datasets/coco_instance_multiscale.py",
    "../../_base_/schedules/coco_3x.py",
    "../../_base_/runtime/mmdet.py",
]

model = dict(
    backbone=dict(
        model_name="nat_base",
        drop_path_rate=0.5,
        init_cfg=dict(type="Pretrained", checkpoint="checkpoints/nat_base.pth"),
    ),
    neck=dict(in_channels=[128, 256, 512, 1024]),
)
