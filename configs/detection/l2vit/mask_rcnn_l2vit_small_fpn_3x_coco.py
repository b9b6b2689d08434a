"""Mask R-CNN with L2ViT-Small on COCO, 3x."""

_base_ = "mask_rcnn_l2vit_tiny_fpn_3x_coco.py"

model = dict(backbone=dict(model_name="l2vit_small", init_cfg=dict(checkpoint="checkpoints/l2vit_small.pth")))
