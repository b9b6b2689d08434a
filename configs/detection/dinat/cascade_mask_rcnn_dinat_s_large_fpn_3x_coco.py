"""Cascade Mask R-CNN with DiNAT_s-Large on COCO, 3x: 54.8 box AP, 47.2 mask AP in the paper.

Starts from ImageNet-22k weights at 224x224, our choice.
"""

_base_ = "cascade_mask_rcnn_dinat_mini_fpn_3x_coco.py"

model = dict(
    backbone=dict(
        model_name="dinat_s_large", drop_path_rate=0.6, init_cfg=dict(checkpoint="checkpoints/dinat_s_large_21k.pth")
    ),
    neck=dict(in_channels=[192, 384, 768, 1536]),
)
optim_wrapper = dict(optimizer=dict(lr=5e-05))
