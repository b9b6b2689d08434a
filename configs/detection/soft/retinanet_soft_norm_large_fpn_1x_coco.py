"""RetinaNet with SOFT++-Large on COCO, 1x: 45.3 AP in the paper.

The paper does not tell its optimiser: ours is Swin's, drop path as in classification.
"""

_base_ = "retinanet_soft_norm_tiny_fpn_1x_coco.py"

model = dict(backbone=dict(model_name="soft_norm_large", init_cfg=dict(checkpoint="checkpoints/soft_norm_large.pth")))
