"""Semantic FPN with RAVLT-L on ADE20K, 80k: 52.6 mIoU in the paper."""

_base_ = "semantic_fpn_ravlt_t_80k_ade20k.py"

model = dict(
    backbone=dict(model_name="ravlt_l", drop_path_rate=0.55, init_cfg=dict(checkpoint="checkpoints/ravlt_l.pth")),
    neck=dict(in_channels=[96, 192, 448, 640]),
)
