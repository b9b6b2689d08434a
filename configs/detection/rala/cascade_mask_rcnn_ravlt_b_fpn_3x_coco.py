"""Cascade Mask R-CNN with RAVLT-B on COCO, 3x: 55.3 box AP, 47.7 mask AP in the paper."""

_base_ = "cascade_mask_rcnn_ravlt_s_fpn_3x_coco.py"

model = dict(
    backbone=dict(model_name="ravlt_b", drop_path_rate=0.4, init_cfg=dict(checkpoint="checkpoints/ravlt_b.pth")),
    neck=dict(in_channels=[96, 192, 384, 512]),
)
