"""Cascade Mask R-CNN with DiNAT-Base on COCO, 3x: 53.4 box AP, 46.2 mask AP in the paper."""

_base_ = "cascade_mask_rcnn_dinat_mini_fpn_3x_coco.py"

model = dict(
    backbone=dict(model_name="dinat_base", drop_path_rate=0.6, init_cfg=dict(checkpoint="checkpoints/dinat_base.pth")),
    neck=dict(in_channels=[128, 256, 512, 1024]),
)
