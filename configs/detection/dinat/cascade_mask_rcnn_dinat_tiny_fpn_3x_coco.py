"""Cascade Mask R-CNN with DiNAT-Tiny on COCO, 3x: 52.2 box AP, 45.1 mask AP in the paper."""

_base_ = "cascade_mask_rcnn_dinat_mini_fpn_3x_coco.py"

model = dict(
    backbone=dict(model_name="dinat_tiny", drop_path_rate=0.3, init_cfg=dict(checkpoint="checkpoints/dinat_tiny.pth"))
)
