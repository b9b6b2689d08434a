"""Mask R-CNN with L2ViT-Base on COCO, 3x."""

_base_ = "mask_rcnn_l2vit_tiny_fpn_3x_coco.py"

model = dict(
    backbone=dict(model_name="l2vit_base", drop_path_rate=0.3, init_cfg=dict(checkpoint="checkpoints/l2vit_base.pth")),
    neck=dict(in_channels=[128, 256, 512, 1024]),
)
