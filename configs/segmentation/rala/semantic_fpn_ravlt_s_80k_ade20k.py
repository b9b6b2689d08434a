"""Semantic FPN with RAVLT-S on ADE20K, 80k: 49.5 mIoU in the paper."""

_base_ = "semantic_fpn_ravlt_t_80k_ade20k.py"

model = dict(
    backbone=dict(model_name="ravlt_s", drop_path_rate=0.15, init_cfg=dict(checkpoint="checkpoints/ravlt_s.pth")),
    neck=dict(in_channels=[64, 128, 320, 512]),
)
