"""UPerNet with NAT-Base on ADE20K, 160k: 48.5 mIoU, 49.7 over several scales in the paper."""

_base_ = [
    "../../_base_/models/upernet.py",
    "../../_base_/datasets/ade20k.py",
    "../../_base_/schedules/ade20k_160k.py",
    "../../_base_/runtime/mmseg.py",
]

model = dict(
    backbone=dict(
        model_name="nat_base",
        drop_path_rate=0.5,
        init_cfg=dict(type="Pretrained", checkpoint="checkpoints/nat_base.pth"),
    ),
    decode_head=dict(in_channels=[128, 256, 512, 1024]),
    auxiliary_head=dict(in_channels=512),
)
