"""Mask R-CNN with SOFT++-Large on COCO, 1x: 47.0 box AP, 42.2 mask AP in the paper.

The paper does not tell its optimiser: ours is Swin's, drop path as in classification.
"""

_base_ = "mask_rcnn_soft_norm_tiny_fpn_1x_coco.py"

model = dict(backbone=dict(model_name="soft_norm_large", init_cfg=dict(checkpoint="checkpoints/soft_norm_large.pth")))
