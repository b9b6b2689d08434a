"""Cascade Mask R-CNN with NAT-Small on COCO, 3x: 52.0 box AP, 44.9 mask AP in the paper."""

_base_ = "cascade_mask_rcnn_nat_mini_fpn_3x_coco.py"

model = dict(
    backbone=dict(model_name="nat_small", drop_path_rate=0.3, init_cfg=dict(checkpoint="checkpoints/nat_small.pth")),
    neck=dict(in_channels=[96, 192, 384, 768]),
)
