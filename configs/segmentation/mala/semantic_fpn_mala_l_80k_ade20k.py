"""Semantic FPN with MAViT-L on ADE20K, 80k."""

_base_ = [
    "../../_base_/models/semantic_fpn.py",
    "../../_base_/datasets/ade20k.py",
    "../../_base_/schedules/ade20k_80k.py",
    "../../_base_/runtime/mmseg.py",
]

model = dict(
    backbone=dict(
        model_name="mala_l", drop_path_rate=0.55, init_cfg=dict(type="Pretrained", checkpoint="checkpoints/mala_l.pth")
    ),
    neck=dict(in_channels=[96, 192, 448, 640]),
)
sync_bn = "torch"
