"""Cascade Mask R-CNN with MAViT-B on COCO, 3x: 55.5 box AP, 48.0 mask AP in the paper."""

_base_ = "cascade_mask_rcnn_mala_s_fpn_3x_coco.py"

model = dict(
    backbone=dict(model_name="mala_b", drop_path_rate=0.4, init_cfg=dict(checkpoint="checkpoints/mala_b.pth")),
    neck=dict(in_channels=[96, 192, 384, 512]),
)
