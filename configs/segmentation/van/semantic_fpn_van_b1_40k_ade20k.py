"""Semantic FPN with VAN-B1 on ADE20K, 40k: 42.9 mIoU in the paper."""

_base_ = "semantic_fpn_van_b0_40k_ade20k.py"

model = dict(
    backbone=dict(model_name="van_b1", init_cfg=dict(checkpoint="checkpoints/van_b1.pth")),
    neck=dict(in_channels=[64, 128, 320, 512]),
)
