"""Mask R-CNN with NAT-Tiny on COCO, 3x: 47.7 box AP, 42.6 mask AP in the paper."""

_base_ = "mask_rcnn_nat_mini_fpn_3x_coco.py"

model = dict(backbone=dict(model_name="nat_tiny", init_cfg=dict(checkpoint="checkpoints/nat_tiny.pth")))
