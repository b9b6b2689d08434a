"""Mask R-CNN with DiNAT_s-Small on COCO, 3x: 48.6 box AP, 43.5 mask AP in the paper.

The paper does not tell DiNAT_s's drop path here: DiNAT's of the same size.
"""

_base_ = "mask_rcnn_dinat_mini_fpn_3x_coco.py"

model = dict(
    backbone=dict(
        model_name="dinat_s_small", drop_path_rate=0.35, init_cfg=dict(checkpoint="checkpoints/dinat_s_small.pth")
    ),
    neck=dict(in_channels=[96, 192, 384, 768]),
)
