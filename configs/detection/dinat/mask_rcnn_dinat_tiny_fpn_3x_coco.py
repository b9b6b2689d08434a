"""Mask R-CNN with DiNAT-Tiny on COCO, 3x: 48.6 box AP, 43.5 mask AP in the paper."""

_base_ = "mask_rcnn_dinat_mini_fpn_3x_coco.py"

model = dict(backbone=dict(model_name="dinat_tiny", init_cfg=dict(checkpoint="checkpoints/dinat_tiny.pth")))
