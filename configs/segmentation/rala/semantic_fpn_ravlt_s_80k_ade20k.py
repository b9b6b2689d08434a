"""Semantic FPN with RAVLT-S on ADE20K, 80k: 49.5 mIoU in the paper."""

_base_ = [
    "../../_base_/models/semantic_fpn.py",
    "../../_base_/datasets/ade20k.py",
    "../../_base_/schedules/ade20k_80k.py",
    "../../_base_/runtime/mmseg.py",
]

model = dict(
    backbone=dict(
        model_name="ravlt_s",
        drop_path_rate=0.15,
        init_cfg=dict(type="Pretrained", checkpoint="checkpoints/ravlt_s.pth"),
    ),
    neck=dict(in_channels=[64, 128, 320, 512]),
)
sync_bn = "torch"
