"""UPerNet with MambaOut-Base on ADE20K, 160k: 49.6 mIoU, 51.0 over several scales in the paper."""

_base_ = [
    "../../_base_/models/upernet.py",
    "../../_base_/datasets/ade20k.py",
    "../../_base_/schedules/ade20k_160k.py",
    "../../_base_/runtime/mmseg.py",
]

model = dict(
    backbone=dict(
        model_name="mambaout_base",
        drop_path_rate=0.6,
        init_cfg=dict(type="Pretrained", checkpoint="checkpoints/mambaout_base.pth"),
    ),
    decode_head=dict(in_channels=[128, 256, 512, 768]),
    auxiliary_head=dict(in_channels=512),
)
optim_wrapper = dict(optimizer=dict(lr=0.0001))
