"""Mask R-CNN with RAVLT-S on COCO, 1x: 49.8 box AP, 44.6 mask AP in the paper."""

_base_ = "mask_rcnn_ravlt_t_fpn_1x_coco.py"

model = dict(
    backbone=dict(model_name="ravlt_s", drop_path_rate=0.15, init_cfg=dict(checkpoint="checkpoints/ravlt_s.pth")),
    neck=dict(in_channels=[64, 128, 320, 512]),
)
