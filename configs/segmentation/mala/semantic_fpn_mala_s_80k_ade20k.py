"""Semantic FPN with MAViT-S on ADE20K, 80k."""

_base_ = "semantic_fpn_mala_t_80k_ade20k.py"

model = dict(
    backbone=dict(model_name="mala_s", drop_path_rate=0.15, init_cfg=dict(checkpoint="checkpoints/mala_s.pth")),
    neck=dict(in_channels=[64, 128, 320, 512]),
)
