"""Cascade Mask R-CNN with NAT-Tiny on COCO, 3x: 51.4 box AP, 44.5 mask AP in the paper."""

_base_ = [
    "../../_base_/models/cascade_mask_rcnn.py",
    "../../_base_/datasets/coco_instance_multiscale.py",
    "../../_base_/schedules/coco_3x.py",
    "../../_base_/runtime/mmdet.py",
]

model = dict(
    backbone=dict(
        model_name="nat_tiny",
        drop_path_rate=0.3,
        init_cfg=dict(type="Pretrained", checkpoint="checkpoints/nat_tiny.pth"),
    ),
    neck=dict(in_channels=[64, 128, 256, 512]),
)
