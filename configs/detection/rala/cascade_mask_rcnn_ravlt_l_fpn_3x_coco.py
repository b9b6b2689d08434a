"""Cascade Mask R-CNN with RAVLT-L on COCO, 3x: 55.6 box AP, 48.0 mask AP in the paper."""

_base_ = "cascade_mask_rcnn_ravlt_s_fpn_3x_coco.py"

model = dict(
    backbone=dict(model_name="ravlt_l", drop_path_rate=0.55, init_cfg=dict(checkpoint="checkpoints/ravlt_l.pth")),
    neck=dict(in_channels=[96, 192, 448, 640]),
)
