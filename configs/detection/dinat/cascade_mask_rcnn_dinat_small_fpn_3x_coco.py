"""Cascade Mask R-CNN with DiNAT-Small on COCO, 3x: 52.9 box AP, 45.8 mask AP in the paper."""

_base_ = "cascade_mask_rcnn_dinat_mini_fpn_3x_coco.py"

model = dict(
    backbone=dict(
        model_name="dinat_small", drop_path_rate=0.5, init_cfg=dict(checkpoint="checkpoints/dinat_small.pth")
    ),
    neck=dict(in_channels=[96, 192, 384, 768]),
)
