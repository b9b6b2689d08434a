"""Cascade Mask R-CNN with DiNAT-Large on COCO, 3x: 55.3 box AP, 47.8 mask AP in the paper.

Starts from ImageNet-22k weights at 224x224, our choice.
"""

_base_ = "cascade_mask_rcnn_dinat_mini_fpn_3x_coco.py"

model = dict(
    backbone=dict(
        model_name="dinat_large", drop_path_rate=0.6, init_cfg=dict(checkpoint="checkpoints/dinat_large_21k.pth")
    ),
    neck=dict(in_channels=[192, 384, 768, 1536]),
)
optim_wrapper = dict(optimizer=dict(lr=7.5e-05))
