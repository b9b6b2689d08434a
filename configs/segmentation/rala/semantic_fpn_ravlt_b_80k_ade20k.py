"""Semantic FPN with RAVLT-B on ADE20K, 80k: 51.9 mIoU in the paper."""

_base_ = "semantic_fpn_ravlt_t_80k_ade20k.py"

model = dict(
    backbone=dict(model_name="ravlt_b", drop_path_rate=0.4, init_cfg=dict(checkpoint="checkpoints/ravlt_b.pth")),
    neck=dict(in_channels=[96, 192, 384, 512]),
)
