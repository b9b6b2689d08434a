"""Mask R-CNN with NAT-Mini on COCO, 3x: 46.5 box AP, 41.7 mask AP in the paper."""

_base_ = [
    "../../_base_/models/mask_rcnn.py",
    "../../_base_/datasets/coco_instance_multiscale.py",
    "../../_base_/schedules/coco_3x.py",
    "../../_base_/runtime/mmdet.py",
]

model = dict(
    backbone=dict(
        model_name="nat_mini",
        drop_path_rate=0.2,
        init_cfg=dict(type="Pretrained", checkpoint="checkpoints/nat_mini.pth"),
    ),
    neck=dict(in_channels=[64, 128, 256, 512]),
)
