"""Semantic FPN with MAViT-B on ADE20K, 80k."""

_base_ = "semantic_fpn_mala_t_80k_ade20k.py"

model = dict(
    backbone=dict(model_name="mala_b", drop_path_rate=0.4, init_cfg=dict(checkpoint="checkpoints/mala_b.pth")),
    neck=dict(in_channels=[96, 192, 384, 512]),
)
