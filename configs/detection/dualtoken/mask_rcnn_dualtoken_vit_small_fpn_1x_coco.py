"""Mask R-CNN with DualToken-ViT-Small on COCO, 1x.

The authors' code is not public: the recipe is LightViT's, on which the family builds.
"""

_base_ = "./mask_rcnn_dualtoken_vit_mini_fpn_1x_coco.py"

model = dict(
    backbone=dict(
        model_name="dualtoken_vit_small",
        init_cfg=dict(checkpoint="checkpoints/dualtoken_vit_small.pth"),
    ),
    neck=dict(in_channels=[64, 128, 256]),
)
