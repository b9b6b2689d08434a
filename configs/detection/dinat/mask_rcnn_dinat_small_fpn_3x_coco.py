"""Mask R-CNN with DiNAT-Small on COCO, 3x: 49.3 box AP, 44.0 mask AP in the paper."""

_base_ = "mask_rcnn_dinat_mini_fpn_3x_coco.py"

model = dict(
    backbone=dict(
        model_name="dinat_small", drop_path_rate=0.35, init_cfg=dict(checkpoint="checkpoints/dinat_small.pth")
    ),
    neck=dict(in_channels=[96, 192, 384, 768]),
)
