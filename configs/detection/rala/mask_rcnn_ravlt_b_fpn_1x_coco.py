"""Mask R-CNN with RAVLT-B on COCO, 1x: 51.2 box AP, 45.7 mask AP in the paper."""

_base_ = "mask_rcnn_ravlt_t_fpn_1x_coco.py"

model = dict(
    backbone=dict(model_name="ravlt_b", drop_path_rate=0.4, init_cfg=dict(checkpoint="checkpoints/ravlt_b.pth")),
    neck=dict(in_channels=[96, 192, 384, 512]),
)
