"""Cascade Mask R-CNN with NAT-Tiny on COCO, 3x: 51.4 box AP, 44.5 mask AP in the paper."""

_base_ = "cascade_mask_rcnn_nat_mini_fpn_3x_coco.py"

model = dict(
    backbone=dict(model_name="nat_tiny", drop_path_rate=0.3, init_cfg=dict(checkpoint="checkpoints/nat_tiny.pth"))
)
