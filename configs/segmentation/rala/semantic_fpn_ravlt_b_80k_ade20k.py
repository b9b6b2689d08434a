"""Semantic FPN with RAVLT-B on ADE20K, 80k: 51.9 mIoU in the paper."""

_base_ = [
    "../../_base_/models/semantic_fpn.py",
    "../../_base_/datasets/ade20k.py",
    "../../_base_/schedules/ade20k_80k.py",
    "../../_base_/runtime/mmseg.py",
]

model = dict(
    backbone=dict(
        model_name="ravlt_b", drop_path_rate=0.4, init_cfg=dict(type="Pretrained", checkpoint="checkpoints/ravlt_b.pth")
    ),
    neck=dict(in_channels=[96, 192, 384, 512]),
)
sync_bn = "torch"
