"""Semantic FPN with MAViT-L on ADE20K, 80k."""

_base_ = "semantic_fpn_mala_t_80k_ade20k.py"

model = dict(
    backbone=dict(model_name="mala_l", drop_path_rate=0.55, init_cfg=dict(checkpoint="checkpoints/mala_l.pth")),
    neck=dict(in_channels=[96, 192, 448, 640]),
)
