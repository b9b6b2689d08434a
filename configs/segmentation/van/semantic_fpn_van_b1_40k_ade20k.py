"""Semantic FPN with VAN-B1 on ADE20K, 40k: 42.9 mIoU in the paper."""

_base_ = [
    "../../_base_/models/semantic_fpn.py",
    "../../_base_/datasets/ade20k_multiple_of_32.py",
    "../../_base_/schedules/ade20k_40k.py",
    "../../_base_/runtime/mmseg.py",
]

model = dict(
    backbone=dict(
        model_name="van_b1",
        drop_path_rate=0.2,
        norm_eps=1e-05,
        init_cfg=dict(type="Pretrained", checkpoint="checkpoints/van_b1.pth"),
    ),
    neck=dict(in_channels=[64, 128, 320, 512]),
)
train_dataloader = dict(batch_size=4)
optim_wrapper = dict(optimizer=dict(lr=0.0002))
sync_bn = "torch"
param_scheduler = [dict(type="PolyLR", eta_min=0.0, power=0.9, begin=0, end=40000, by_epoch=False)]
