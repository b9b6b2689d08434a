"""Semantic FPN with DualToken-ViT-Small on ADE20K, 80k.

The authors' code is not public: the recipe is Swin's, on the three maps there are.
"""

_base_ = "./semantic_fpn_dualtoken_vit_mini_80k_ade20k.py"

model = dict(
    backbone=dict(
        model_name="dualtoken_vit_small",
        init_cfg=dict(checkpoint="checkpoints/dualtoken_vit_small.pth"),
    ),
    neck=dict(in_channels=[64, 128, 256]),
    decode_head=dict(in_channels=[256, 256, 256]),
)
