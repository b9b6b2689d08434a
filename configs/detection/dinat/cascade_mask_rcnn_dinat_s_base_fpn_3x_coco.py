"""Cascade Mask R-CNN with DiNAT_s-Base on COCO, 3x: 52.6 box AP, 45.3 mask AP in the paper.

The paper does not tell DiNAT_s's drop path here: DiNAT's of the same size.
"""

_base_ = "cascade_mask_rcnn_dinat_mini_fpn_3x_coco.py"

model = dict(
    backbone=dict(
        model_name="dinat_s_base", drop_path_rate=0.6, init_cfg=dict(checkpoint="checkpoints/dinat_s_base.pth")
    ),
    neck=dict(in_channels=[128, 256, 512, 1024]),
)
