"""Mask R-CNN with MAViT-S on COCO, 1x."""

_base_ = "mask_rcnn_mala_t_fpn_1x_coco.py"

model = dict(
    backbone=dict(model_name="mala_s", drop_path_rate=0.15, init_cfg=dict(checkpoint="checkpoints/mala_s.pth")),
    neck=dict(in_channels=[64, 128, 320, 512]),
)
