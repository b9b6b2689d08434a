"""Semantic FPN with MAViT-S on ADE20K, 80k."""

_base_ = [
    "../../_base_/models/semantic_fpn.py",
    "../../_base_/datasets/ade20k.py",
    "../../_base_/schedules/ade20k_80k.py",
    "../../_base_/runtime/mmseg.py",
]

model = dict(
    backbone=dict(
        model_name="mala_s", drop_path_rate=0.15, init_cfg=dict(type="Pretrained", checkpoint="checkpoints/mala_s.pth")
    ),
    neck=dict(in_channels=[64, 128, 320, 512]),
)
sync_bn = "torch"
