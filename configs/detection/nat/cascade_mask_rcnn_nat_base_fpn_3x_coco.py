"""Cascade Mask R-CNN with NAT-Base on COCO, 3x: 52.3 box AP, 45.1 mask AP in the paper."""

_base_ = "cascade_mask_rcnn_nat_mini_fpn_3x_coco.py"

model = dict(
    backbone=dict(model_name="nat_base", drop_path_rate=0.5, init_cfg=dict(checkpoint="checkpoints/nat_base.pth")),
    neck=dict(in_channels=[128, 256, 512, 1024]),
)
