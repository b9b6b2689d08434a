"""RetinaNet with SOFT++-Medium on COCO, 1x: 44.3 AP in the paper.

The paper does not tell its optimiser: ours is Swin's, drop path as in classification.
"""

_base_ = "retinanet_soft_norm_tiny_fpn_1x_coco.py"

model = dict(
    backbone=dict(model_name="soft_norm_medium", init_cfg=dict(checkpoint="checkpoints/soft_norm_medium.pth")),
    neck=dict(in_channels=[128, 288, 512]),
)
