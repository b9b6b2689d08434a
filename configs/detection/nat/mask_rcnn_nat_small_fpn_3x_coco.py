"""Mask R-CNN with NAT-Small on COCO, 3x: 48.4 box AP, 43.2 mask AP in the paper."""

_base_ = "mask_rcnn_nat_mini_fpn_3x_coco.py"

model = dict(
    backbone=dict(model_name="nat_small", drop_path_rate=0.35, init_cfg=dict(checkpoint="checkpoints/nat_small.pth")),
    neck=dict(in_channels=[96, 192, 384, 768]),
)
