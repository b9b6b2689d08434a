"""Semantic FPN with RAVLT-T on ADE20K, 80k: 47.9 mIoU in the paper."""

_base_ = [
    "../../_base_/models/semantic_fpn.py",
    "../../_base_/datasets/ade20k.py",
    "../../_base_/schedules/ade20k_80k.py",
    "../../_base_/runtime/mmseg.py",
]

model = dict(
    backbone=dict(
        model_name="ravlt_t", drop_path_rate=0.1, init_cfg=dict(type="Pretrained", checkpoint="checkpoints/ravlt_t.pth")
    ),
    neck=dict(in_channels=[64, 128, 256, 512]),
)
sync_bn = "torch"
