"""Mask R-CNN with MAViT-L on COCO, 1x."""

_base_ = "mask_rcnn_mala_t_fpn_1x_coco.py"

model = dict(
    backbone=dict(model_name="mala_l", drop_path_rate=0.55, init_cfg=dict(checkpoint="checkpoints/mala_l.pth")),
    neck=dict(in_channels=[96, 192, 448, 640]),
)
