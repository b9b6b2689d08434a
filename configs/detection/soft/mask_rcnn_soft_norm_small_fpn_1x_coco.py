"""Mask R-CNN with SOFT++-Small on COCO, 1x: 43.8 box AP, 40.1 mask AP in the paper.

The paper does not tell its optimiser: ours is Swin's, drop path as in classification.
"""

_base_ = "mask_rcnn_soft_norm_tiny_fpn_1x_coco.py"

model = dict(backbone=dict(model_name="soft_norm_small", init_cfg=dict(checkpoint="checkpoints/soft_norm_small.pth")))
